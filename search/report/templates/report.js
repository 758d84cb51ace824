"use strict";
// Tables that can be sorted, words beside the pointer, and a hint where a table goes on. Without this script all of the page can be read.
for (const table of document.querySelectorAll("table.sortable")) {
  const heads = [...table.tHead.rows[0].cells];
  heads.forEach((head, column) => {
    const button = document.createElement("button");
    button.append(...head.childNodes);
    head.append(button);
    button.addEventListener("click", () => {
      const up = head.getAttribute("aria-sort") !== "ascending";
      for (const other of heads) other.removeAttribute("aria-sort");
      head.setAttribute("aria-sort", up ? "ascending" : "descending");
      const value = row => parseFloat(row.cells[column].dataset.value);
      const text = row => row.cells[column].textContent;
      const order = (a, b) => {
        const [x, y] = [value(a), value(b)];
        if (isNaN(x) && isNaN(y)) return (up ? 1 : -1) * text(a).localeCompare(text(b));
        if (isNaN(x) || isNaN(y)) return isNaN(x) ? 1 : -1;
        return up ? x - y : y - x;
      };
      table.tBodies[0].append(...[...table.tBodies[0].rows].sort(order));
    });
  });
}
const box = document.createElement("div");
box.className = "tip";
box.hidden = true;
document.body.append(box);
for (const title of document.querySelectorAll("svg title")) {
  const mark = title.parentNode, words = title.textContent;
  title.remove();
  mark.addEventListener("pointerenter", event => {
    box.textContent = words;
    box.hidden = false;
    const left = Math.min(event.clientX + 12, innerWidth - box.offsetWidth - 8);
    box.style.left = Math.max(left, 8) + "px";
    box.style.top = Math.max(event.clientY - box.offsetHeight - 10, 8) + "px";
  });
  mark.addEventListener("pointerleave", () => { box.hidden = true; });
}
const hint = () => {
  for (const part of document.querySelectorAll(".scroll")) {
    const more = part.scrollWidth > part.clientWidth + 1, next = part.nextElementSibling;
    if (next && next.className === "hint") next.hidden = !more;
    else if (more) part.insertAdjacentHTML("afterend", '<small class="hint">wider than the screen: scroll sideways</small>');
  }
};
hint();
addEventListener("resize", hint);
for (const part of document.querySelectorAll("details")) part.addEventListener("toggle", hint);
