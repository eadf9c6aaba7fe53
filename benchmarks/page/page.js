"use strict";
// Sorts and filters the table of results by what the cells hold; makes no element from text.
const table = document.getElementById("results");
const body = table.tBodies[0];
const rows = Array.from(body.rows);
const count = document.getElementById("count");
const filters = Array.from(document.querySelectorAll("[data-filter]"));

function key(row, column) {
  const cell = row.cells[column];
  const value = cell.dataset.value;
  if (value === undefined) return cell.textContent.trim().toLowerCase();
  return value === "" ? null : Number(value);
}

function compare(a, b, sign) {
  if (a === null || b === null) return (a === null) - (b === null); // unknown last either way
  if (a < b) return -sign;
  return a > b ? sign : 0;
}

function sortBy(header) {
  const descending = header.getAttribute("aria-sort") === "ascending";
  for (const other of table.tHead.rows[0].cells) other.removeAttribute("aria-sort");
  header.setAttribute("aria-sort", descending ? "descending" : "ascending");
  const sign = descending ? -1 : 1;
  const column = header.cellIndex;
  rows.sort((a, b) => compare(key(a, column), key(b, column), sign));
  body.append(...rows);
}

function filter() {
  let shown = 0;
  for (const row of rows) {
    const fits = filters.every((field) => {
      const wanted = field.value.trim().toLowerCase();
      if (wanted === "") return true;
      if (field.dataset.filter === "any") return row.textContent.toLowerCase().includes(wanted);
      return (row.dataset[field.dataset.filter] || "").toLowerCase() === wanted;
    });
    row.hidden = !fits;
    shown += fits;
  }
  count.textContent = shown + " of " + rows.length + " rows";
}

function openTarget() {
  const target = document.getElementById(decodeURIComponent(location.hash.slice(1)));
  if (target instanceof HTMLDetailsElement) target.open = true;
}

for (const header of table.tHead.rows[0].cells) {
  header.querySelector("button").addEventListener("click", () => sortBy(header));
}
for (const field of filters) field.addEventListener("input", filter);
document.getElementById("clear").addEventListener("click", () => {
  for (const field of filters) field.value = "";
  filter();
});
window.addEventListener("hashchange", openTarget);
filter();
openTarget();
