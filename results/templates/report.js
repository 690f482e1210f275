"use strict";
(() => {
  const table = document.getElementById("runs-table");
  if (!table) return;
  const body = table.tBodies[0];
  const rows = [...body.rows];
  const count = document.getElementById("runs-count");
  const inputs = [...document.querySelectorAll("[data-filter]")];

  function filter() {
    const words = document.getElementById("filter-text").value.toLowerCase().split(/\s+/).filter(Boolean);
    const wanted = inputs.filter((input) => input.value).map((input) => [input.dataset.filter, input.value]);
    let shown = 0;
    for (const row of rows) {
      const text = row.dataset.text;
      const here = words.every((word) => text.includes(word)) && wanted.every(([key, value]) => row.dataset[key] === value);
      row.hidden = !here;
      shown += here;
    }
    count.textContent = `${shown} of ${rows.length} runs`;
  }

  const keyOf = (row, index) => row.cells[index].dataset.value ?? row.cells[index].textContent.trim();
  function sort(heading) {
    const index = heading.cellIndex;
    const ascending = heading.getAttribute("aria-sort") !== "ascending";
    for (const other of table.tHead.rows[0].cells) other.removeAttribute("aria-sort");
    heading.setAttribute("aria-sort", ascending ? "ascending" : "descending");
    const numeric = heading.dataset.type === "number";
    const sign = ascending ? 1 : -1;
    rows.sort((a, b) => {
      const [x, y] = [keyOf(a, index), keyOf(b, index)];
      if (x === "" || y === "") return (x === "") - (y === "");
      return sign * (numeric ? x - y : x.localeCompare(y, "en", { numeric: true }));
    });
    body.append(...rows);
  }

  const dialog = document.getElementById("run");
  let details;
  function open(id) {
    details ??= JSON.parse(document.getElementById("details").textContent);
    const [name, values, metrics] = details.runs.find(([one]) => one === id);
    dialog.querySelector("h2").textContent = name;
    const list = dialog.querySelector("dl");
    list.replaceChildren();
    const add = (label, text) => {
      const [term, value] = [document.createElement("dt"), document.createElement("dd")];
      term.textContent = label;
      value.textContent = text;
      list.append(term, value);
    };
    for (const [metric, value, unit, selection] of metrics) add(metric, `${value} ${unit} (${selection})`);
    values.forEach((place, index) => { if (place >= 0) add(details.labels[index], details.texts[place]); });
    dialog.showModal();
  }

  table.tHead.addEventListener("click", (event) => {
    if (event.target.closest("button")) sort(event.target.closest("th"));
  });
  body.addEventListener("click", (event) => {
    const button = event.target.closest("button.open");
    if (button) open(button.textContent);
  });
  for (const input of [document.getElementById("filter-text"), ...inputs]) {
    for (const kind of ["input", "change"]) input.addEventListener(kind, filter);
  }
  filter();
})();
