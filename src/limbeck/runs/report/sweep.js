// Filters and baselines of the page of a sweep. What is chosen stands in the address (#...), so that
// it outlasts a reload and can be shared; without scripts the page shows everything.
"use strict";
const chosen = new URLSearchParams(location.hash.slice(1));
const filters = document.getElementById("filters");
const differences = document.getElementById("differences");

function remember(name, value) {
  if (value) chosen.set(name, value); else chosen.delete(name);
  history.replaceState(null, "", chosen.size ? "#" + chosen : location.pathname + location.search);
}

function restore(form) {
  form.hidden = false;
  for (const select of form.querySelectorAll("select")) {
    const index = [...select.options].findIndex((o) => o.value === chosen.get(select.name));
    select.selectedIndex = Math.max(index, 0);
  }
}

function isVisible(element) {
  return !element.hidden;
}

function showRuns() {
  const wanted = [...filters.querySelectorAll("select")].map((s) => s.selectedIndex - 1);
  for (const run of document.querySelectorAll("[data-run]")) {
    const own = run.dataset.run.split(" ");
    run.hidden = wanted.some((value, i) => value >= 0 && own[i] !== "-" && Number(own[i]) !== value);
  }
  hideEmptyLines(document.getElementById("matrix"));
  for (const section of document.querySelectorAll("section:has(tr[data-run])")) {
    section.hidden = ![...section.querySelectorAll("tr[data-run]")].some(isVisible);
  }
  const runs = [...document.querySelectorAll("#matrix figure")];
  const shown = runs.filter(isVisible).length;
  const filtered = wanted.some((value) => value >= 0);
  filters.querySelector("button").hidden = !filtered;
  const note = "means and differences stay those of all";
  filters.querySelector("output").textContent =
    filtered ? `${shown} of ${runs.length} runs; ${note}` : "";
}

// Rows and columns of the matrix without a visible run; empty places of the grid stay.
function hideEmptyLines(matrix) {
  const rows = [...matrix.tBodies[0].rows];
  const filled = (cell) => [...cell.querySelectorAll("figure")].some(isVisible);
  for (const row of rows) row.hidden = ![...row.cells].slice(1).some(filled);
  const heads = matrix.tHead.rows[matrix.tHead.rows.length - 1].cells;
  for (let i = 1; i < heads.length; i++) {
    const visible = rows.some((row) => filled(row.cells[i]));
    for (const cell of [heads[i], ...rows.map((row) => row.cells[i])]) cell.hidden = !visible;
  }
}

function showDifferences() {
  const option = differences.querySelector("[name=option]").selectedIndex;
  const baseline = differences.querySelector(`[name=baseline-${option}]`).selectedIndex;
  for (const part of differences.querySelectorAll("[data-option]")) {
    const own = part.dataset.baseline;
    const isOther = own !== undefined && Number(own) !== baseline;
    part.hidden = Number(part.dataset.option) !== option || isOther;
  }
}

if (filters) {
  restore(filters);
  filters.addEventListener("change", (event) => {
    remember(event.target.name, event.target.value);
    showRuns();
  });
  filters.addEventListener("reset", () => setTimeout(() => {
    for (const select of filters.querySelectorAll("select")) remember(select.name, "");
    showRuns();
  }));
  showRuns();
}
if (differences) {
  restore(differences.querySelector("form"));
  differences.addEventListener("change", (event) => {
    remember(event.target.name, event.target.value);
    showDifferences();
  });
  showDifferences();
}
const reloadSeconds = Number(document.currentScript.dataset.reloadSeconds);
if (reloadSeconds) {
  setInterval(() => {
    const isChoosing = document.activeElement && document.activeElement.matches("select");
    if (!isChoosing) location.reload();
  }, 1000 * reloadSeconds);
}
