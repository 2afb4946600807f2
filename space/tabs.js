// Arrow keys, Home and End move along the tabs, and only the selected tab is a stop of the tab key. On the first, the leaderboard, the
// address names no model.
() => {
  const list = document.querySelector('[role="tablist"]');
  const tabs = () => [...list.querySelectorAll('[role="tab"]')];
  const mark = () => tabs().forEach((tab) => (tab.tabIndex = tab.ariaSelected === "true" ? 0 : -1));
  list.addEventListener("keydown", (event) => {
    const all = tabs(), place = all.indexOf(document.activeElement);
    const next = { ArrowRight: place + 1, ArrowLeft: place - 1, Home: 0, End: all.length - 1 }[event.key];
    if (next === undefined || place < 0) return;
    event.preventDefault();
    const tab = all[(next + all.length) % all.length];
    tab.click();
    tab.focus();
  });
  list.addEventListener("click", (event) => {
    if (event.target.closest('[role="tab"]') !== tabs()[0]) return;
    history.replaceState(null, "", location.pathname);
    if (window.parent !== window) window.parent.postMessage({ queryString: "" }, "https://huggingface.co");
  });
  new MutationObserver(mark).observe(list, { subtree: true, childList: true, attributeFilter: ["aria-selected"] });
  mark();
}
