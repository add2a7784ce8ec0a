// circuitsvis, unpacked once: what draws with it awaits this.
window.tnaCircuitsVis ??= (async () => {
  const script = document.createElement("script");
  script.textContent = await window.tnaUnpack(window.tnaPacked);
  document.head.append(script);
})();
