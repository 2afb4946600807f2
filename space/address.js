// The address names the model that is shown, so that it can be passed on; on the Hub, the page around the Space does too.
(name) => {
  const query = "?model=" + encodeURIComponent(name ?? "");
  history.replaceState(null, "", query);
  if (window.parent !== window) window.parent.postMessage({ queryString: query }, "https://huggingface.co");
}
