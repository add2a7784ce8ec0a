// circuitsvis, unpacked once: what draws with it awaits this.
window.tnaCircuitsVis ??= (async () => {
  const bytes = Uint8Array.from(atob(window.tnaPacked), (letter) => letter.charCodeAt(0));
  const script = document.createElement("script");
  script.textContent = await new Response(new Blob([bytes]).stream().pipeThrough(new DecompressionStream("gzip"))).text();
  document.head.append(script);
})();
