// Attention: one head's pattern, drawn by circuitsvis, with a button a head; or what one position attends to, a strip a head.
window.tnaPatterns ??= (root) => {
  for (const box of root.querySelectorAll(".tna-attention:not([data-ready])")) {
    box.dataset.ready = "yes";
    const page = box.closest(".tna-part") ?? document;
    const { tokens, heads } = JSON.parse(box.querySelector("script[type='application/json']").textContent);
    const list = box.querySelector(".heads");
    const matrix = box.querySelector(".matrix");
    const names = Object.keys(heads);

    const draw = async (name) => {
      for (const each of list.children) each.setAttribute("aria-selected", String(each.textContent === name));
      const place = document.createElement("div");
      window.tnaAttention = (window.tnaAttention ?? 0) + 1;
      place.id = `tna-attention-${window.tnaAttention}`;
      matrix.replaceChildren(place);
      try {
        await window.tnaCircuitsVis;
      } catch (error) {
        place.textContent = `This browser cannot unpack what draws attention: ${error.message}`;
        return;
      }
      if (!place.isConnected) return; // another head was chosen meanwhile
      window.CircuitsVis.render(place.id, window.CircuitsVis.AttentionPattern, {
        tokens, attention: heads[name], minValue: -1, maxValue: 1, positiveColor: "#2b6ca8", negativeColor: "#b2402f",
        showAxisLabels: true, maskUpperTri: false,
      });
    };

    if (names.every((name) => heads[name].length > 1)) {
      for (const name of names) {
        const choose = document.createElement("button");
        choose.type = "button";
        choose.className = "unit attn";
        choose.dataset.unit = name;
        choose.setAttribute("role", "tab");
        choose.textContent = name;
        choose.addEventListener("click", () => draw(name));
        list.append(choose);
      }
      page.addEventListener("tna:pin", (event) => names.includes(event.detail) && draw(event.detail));
      const pinned = window.tnaState?.get("pin");
      draw(names.includes(pinned) ? pinned : names[0]);
    } else {
      for (const name of names) {
        const strip = document.createElement("div");
        strip.className = "strip";
        strip.dataset.unit = name;
        strip.append(Object.assign(document.createElement("span"), { className: "name attn", textContent: name }));
        const cells = document.createElement("div");
        heads[name][0].forEach((value, i) => {
          const cell = document.createElement("i");
          cell.style.opacity = Math.sqrt(value);
          cell.title = `${tokens[i]} @${i}: ${value}`;
          cells.append(cell);
        });
        strip.append(cells);
        matrix.append(strip);
      }
    }
  }
};
window.tnaPatterns(document);
