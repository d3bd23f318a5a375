"""R-Precision, and what a prompt is compared with."""

import pytest
import torch

from limbeck.metrics.r_precision import (
    candidate_log_probs,
    candidate_objects,
    compared_columns,
    compared_texts,
    distractor_prompts,
    r_precision,
)
from limbeck.world.scene import COLORS, OBJECTS


def test_r_precision_counts_rows_whose_own_text_scores_highest():
    scores = torch.tensor([[3.0, 1, 2], [1, 3, 2], [2, 2, 1], [5, -1, 4.9]])
    assert [r_precision(scores, own) for own in range(3)] == [0.5, 0.25, 0.0]
    with pytest.raises(ValueError, match="only the prompt itself"):
        r_precision(scores[:, :1], 0)


def test_a_prompt_is_compared_with_all_others_of_its_kind():
    candidates = candidate_objects("a yellow duck")
    assert len(candidates) == len(set(candidates)) == 140
    assert candidates[0] == (OBJECTS.index("duck"), COLORS.index("yellow"))
    assert len(candidate_objects("a duck")) == 14 and candidate_objects("a dream") == ()
    texts = distractor_prompts("a striped yellow duck on grass")
    assert len(texts) == 139 and "a striped blue duck on grass" in texts
    assert "a striped yellow duck on grass" not in texts
    assert "an orange" not in " ".join(distractor_prompts("a duck"))


def test_log_probs_are_of_object_and_color():
    rng = torch.Generator().manual_seed(1)
    logits = {
        "object": torch.randn(50, 15, generator=rng),
        "color": torch.randn(50, 10, generator=rng),
    }
    is_duck = logits["object"][:, :14].argmax(1) == 11
    is_yellow = logits["color"].argmax(1) == 3
    both, duck = ((is_duck & is_yellow).float().mean(), is_duck.float().mean())
    found = r_precision(candidate_log_probs(logits, "a yellow duck"), 0)
    assert found == pytest.approx(both.item())
    found = r_precision(candidate_log_probs(logits, "a yellow duck", geometry=True), 0)
    assert found == pytest.approx(duck.item())
    found = r_precision(candidate_log_probs(logits, "a duck"), 0)
    assert found == pytest.approx(duck.item())


def test_a_prompt_is_not_compared_with_itself():
    others = ["A duck .", "a duck", "a  Duck", "a red duck", "a red duck", "a duck?"]
    assert compared_texts("a duck.", others) == ["a duck.", "a red duck", "a duck?"]


def test_columns_of_many_prompts_are_the_texts_of_each():
    prompts = ["a duck.", "a mug", "A  Duck"]
    others = ["a duck", "a mug", "a red duck", "a mug,", "a mug"]
    texts = list(dict.fromkeys([*prompts, *others]))
    columns = compared_columns(prompts, texts, others)
    for prompt, row in zip(prompts, columns, strict=True):
        found = [text for text, is_one in zip(texts, row.tolist(), strict=True) if is_one]
        assert sorted(found) == sorted(compared_texts(prompt, others))
