// The threshold and the paths of the node pointed at. Every graph on the page is set up once, by whichever script comes first.
window.tnaLayers ??= (root) => {
  for (const flow of root.querySelectorAll(".tna-layered:not([data-ready])")) {
    flow.dataset.ready = "yes";
    const edges = [...flow.querySelectorAll(".edge")];
    const nodes = [...flow.querySelectorAll(".node")];
    const slider = flow.querySelector("input");
    const shown = (edge) => edge.getAttribute("display") !== "none";

    // Names reached from `start` along shown edges: upstream (from sink to source) or downstream.
    const reached = (start, from, to) => {
      const found = new Set([start]);
      for (let grew = true; grew; ) {
        grew = false;
        for (const edge of edges) {
          if (shown(edge) && found.has(edge.dataset[from]) && !found.has(edge.dataset[to])) {
            found.add(edge.dataset[to]);
            grew = true;
          }
        }
      }
      return found;
    };

    const threshold = () => {
      const share = Number(slider.value);
      flow.querySelector("output").textContent = `${Math.round(100 * share)} %`;
      for (const edge of edges) {
        if (Number(edge.dataset.share) < share) edge.removeAttribute("display");
        else edge.setAttribute("display", "none");
      }
      const leading = reached("answer", "to", "from");
      for (const edge of edges) {
        if (!leading.has(edge.dataset.to)) edge.setAttribute("display", "none");
      }
      for (const node of nodes) node.classList.toggle("idle", !leading.has(node.dataset.name));
    };

    const follow = (name) => {
      const before = reached(name, "to", "from");
      const after = reached(name, "from", "to");
      for (const node of nodes) node.classList.toggle("dim", !before.has(node.dataset.name) && !after.has(node.dataset.name));
      for (const edge of edges) {
        const { from, to } = edge.dataset;
        edge.classList.toggle("dim", !(before.has(from) && before.has(to)) && !(after.has(from) && after.has(to)));
      }
    };
    const release = () => [...nodes, ...edges].forEach((mark) => mark.classList.remove("dim"));

    for (const node of nodes) {
      node.addEventListener("pointerenter", () => follow(node.dataset.name));
      node.addEventListener("focus", () => follow(node.dataset.name));
      node.addEventListener("pointerleave", release);
      node.addEventListener("blur", release);
    }
    slider.addEventListener("input", threshold);
    threshold();
  }
};
window.tnaLayers(document);
