// A click on a model opens its page in this Space; with a key held down, the browser opens the link itself.
element.addEventListener("click", (event) => {
  const link = event.target.closest("a.model");
  if (!link || event.ctrlKey || event.metaKey || event.shiftKey) return;
  event.preventDefault();
  trigger("select", { model: link.dataset.model });
});
