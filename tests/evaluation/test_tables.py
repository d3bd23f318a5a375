"""Tables of several evaluated runs."""

import torch

from limbeck.evaluation.judge import RunEvaluation
from limbeck.evaluation.prompt_metrics import PromptImages, mean_metrics
from limbeck.evaluation.tables import comparison_table, markdown_lines, summary_line
from limbeck.metrics.intervals import mean_interval


def table_cells(table):
    return [
        [cell.strip() for cell in line.strip("|").split("|")]
        for line in table.splitlines()
        if line.startswith("|")
    ]


def test_means_are_over_seeds_then_over_prompts():
    reports = [
        {"prompts": [{"prompt": prompt, "object": value, "reference": {"object": true}}]}
        for prompt, value, true in (("duck", 1.0, 1.0), ("duck", 0.5, 1.0), ("car", 0.0, 0.5))
    ]
    runs = [RunEvaluation("f", seed, report) for seed, report in enumerate(reports)]
    cells = table_cells(comparison_table(runs))
    assert cells[0] == ["prompt", "runs", "object"]
    assert cells[2:] == [
        ["duck", "2", "75 %"],
        ["car", "1", "0 %"],
        ["mean", "", "38 %"],
        ["95 % over 2 prompts", "", "0 to 100 %"],
        ["true objects", "", "75 %"],
    ]


def test_bars_in_prompts_end_no_cell():
    lines = markdown_lines([["prompt", "object"], ["a | b", "1 %"]])
    assert lines[2] == r"| a \| b | " + "   1 % |"
    assert len({len(line) for line in lines}) == 1


def test_the_mean_has_the_interval_over_prompts():
    values = {"duck": (0.2, 0.4), "car": (0.5, 0.5), "mug": (0.9, 0.7), "cone": (0.6, 0.8)}
    rows = [[{"prompt": p, "object": v[seed]} for p, v in values.items()] for seed in (0, 1)]
    runs = [RunEvaluation("f", seed, {"prompts": own}) for seed, own in enumerate(rows)]
    low, high = mean_interval([0.3, 0.5, 0.8, 0.7], (0, 1))
    (row,) = (r for r in table_cells(comparison_table(runs)) if r[0] == "95 % over 4 prompts")
    assert row == ["95 % over 4 prompts", "", f"{100 * low:.0f} to {100 * high:.0f} %"]


def test_of_one_prompt_the_runs_are_the_unit():
    values = (0.2, 0.4, 0.9)
    runs = [
        RunEvaluation("f", seed, {"prompts": [{"prompt": "duck", "image_reward": value}]})
        for seed, value in enumerate(values)
    ]
    low, high = mean_interval(values)
    rows = table_cells(comparison_table(runs))
    assert ["95 % over 3 runs", "", f"{low:.3f} to {high:.3f}"] in rows


def test_the_line_of_a_run_has_intervals_over_prompts_or_particles():
    def report(prompts):
        return {"mean": mean_metrics(prompts), "prompts": prompts}

    prompts = [{"prompt": p, "object": v} for p, v in (("duck", 0.2), ("car", 0.5), ("mug", 0.9))]
    low, high = mean_interval([0.2, 0.5, 0.9], (0, 1))
    line = summary_line(report(prompts))
    within = f"({100 * low:.0f} to {100 * high:.0f} %)"
    assert line == f"object 53 % {within}; 95 % intervals over 3 prompts"
    alone = [{"prompt": "duck", "object": 0.3, "particles": [{"object": 0.2}, {"object": 0.4}]}]
    assert summary_line(report(alone)).endswith("; 95 % intervals over 2 particles of 1 prompt")
    alone = [{"prompt": "duck", "object": 0.3, "particles": [{"object": 0.3}]}]
    assert summary_line(report(alone)) == "object 30 %; 1 prompt has no interval"


def gray_images(value):
    return PromptImages(torch.full((1, 1, 3, 4, 4), value, dtype=torch.uint8))


def test_a_note_explains_what_diversity_is_between():
    duck = {"prompts": [{"prompt": "duck", "diversity": 0.25}]}
    car = {"prompts": [{"prompt": "car", "object": 1.0}]}
    runs = [
        RunEvaluation("f", seed, duck, images={"duck": gray_images(51 * seed)})
        for seed in (0, 1, 1)
    ]
    runs.append(RunEvaluation("f", 2, car, images={"car": gray_images(0)}))
    table = comparison_table(runs)
    cells = table_cells(table)
    assert cells[0] == ["prompt", "runs", "object", "diversity", "across seeds"]
    assert cells[2:] == [
        ["duck", "3", "-", "0.250", "0.200"],
        ["car", "1", "100 %", "-", "-"],
        ["mean", "", "100 %", "0.250", "0.200"],
        ["95 % over 2 prompts", "", "-", "-", "-"],
    ]
    assert table.splitlines()[-1] == (
        "diversity: between particles of one run; "
        "across seeds: between particles of runs of different seeds"
    )
