// A click on a heading sorts its table: numbers descending, then reversed; missing values stay last.
element.addEventListener("click", (event) => {
  const head = event.target.closest("th");
  if (!head || !head.querySelector("button")) return;
  const place = [...head.parentNode.children].indexOf(head), body = head.closest("table").tBodies[0];
  const numeric = head.classList.contains("numeric"), was = head.getAttribute("aria-sort");
  const down = was ? was === "ascending" : numeric;
  const value = (row) => row.children[place].dataset.value;
  const compare = (one, other) => (numeric ? one - other : one.localeCompare(other)) * (down ? -1 : 1);
  const order = (one, other) => (value(one) === "") - (value(other) === "") || compare(value(one), value(other));
  body.append(...[...body.rows].sort(order));
  for (const other of head.parentNode.children) other.removeAttribute("aria-sort");
  head.setAttribute("aria-sort", down ? "descending" : "ascending");
});

// A table that goes on to the right or below shows a shadow there.
const mark = () => {
  for (const board of element.querySelectorAll(".board")) {
    board.parentNode.classList.toggle("more", board.scrollWidth - board.clientWidth - board.scrollLeft > 4);
    board.parentNode.classList.toggle("below", board.scrollHeight - board.clientHeight - board.scrollTop > 4);
  }
};
element.addEventListener("scroll", mark, true);
new ResizeObserver(mark).observe(element);

// "expand" says that the end of these tables is in view, or was: what is below them is wanted.
const seen = new IntersectionObserver((entries) => {
  if (!entries.some((entry) => entry.isIntersecting)) return;
  seen.disconnect();
  trigger("expand");
}, { rootMargin: "100000px 0px 0px" });
const show = () => {
  mark();
  seen.disconnect();
  const end = element.querySelector(".end");
  if (end) seen.observe(end);
};
watch("value", show);
show(); // the first tables come with the page
