"use strict";
for (const button of document.querySelectorAll("th button")) {
  button.addEventListener("click", () => {
    const heading = button.closest("th"), row = heading.parentElement, body = row.closest("table").tBodies[0];
    const place = [...row.children].indexOf(heading);
    const up = heading.getAttribute("aria-sort") !== "ascending";
    const key = line => line.children[place].dataset.key ?? line.children[place].textContent.trim();
    const compare = (a, b) => key(a).localeCompare(key(b), undefined, {numeric: true});
    const number = (a, b) => Number(key(a)) - Number(key(b));
    const lines = [...body.rows].sort(place ? number : compare);
    body.append(...(up ? lines : lines.reverse()));
    for (const other of row.children) other.removeAttribute("aria-sort");
    heading.setAttribute("aria-sort", up ? "ascending" : "descending");
  });
}
