// The flow: laid out here, so that what is below a threshold leaves and the rest closes up. Every flow on the page is set
// up once, by whichever script comes first.
window.tnaFlows ??= (root) => {
  for (const flow of root.querySelectorAll(".tna-flow:not([data-ready])")) {
    flow.dataset.ready = "yes";
    const page = flow.closest(".tna-part") ?? document; // what happens in another part of the page is told there
    const { tokens, nodes, edges } = JSON.parse(flow.querySelector("script[type='application/json']").textContent);
    const named = new Map(nodes.map((node) => [node.name, node]));
    const [shareSlider, leastSlider] = ["share", "least"].map((name) => flow.querySelector(`input.${name}`));
    const [shareText, leastText] = flow.querySelectorAll("output");
    const field = flow.querySelector(".scroll");
    const panel = flow.querySelector(".panel");
    const state = window.tnaState;
    const BOX = 108, TALL = 32, GAP = 8, ROW = 26, TOP = 8, SIDE = 46; // pixels: two short lines of text, and room for curves
    const nats = (value) => `${value < 0 ? "−" : "+"}${Math.abs(value) >= 100 ? Math.abs(value).toFixed(0) : Math.abs(value).toPrecision(3)}`;
    const element = (name, attributes, parent, text) => {
      const made = document.createElementNS("http://www.w3.org/2000/svg", name);
      for (const [key, value] of Object.entries(attributes)) made.setAttribute(key, value);
      if (text !== undefined) made.textContent = text;
      parent.append(made);
      return made;
    };

    // Names reached from `start` along edges, from their end `from` to their end `to`.
    const reached = (start, from, to, among) => {
      const found = new Set([start]);
      for (let grew = true; grew; ) {
        grew = false;
        for (const edge of among) {
          if (found.has(edge[from]) && !found.has(edge[to])) {
            found.add(edge[to]);
            grew = true;
          }
        }
      }
      return found;
    };

    const through = new Map(nodes.map(({ name }) => [name, 0]));
    for (const edge of edges) through.set(edge.from, through.get(edge.from) + edge.weight);
    for (const edge of edges) if (edge.to === "answer") through.set("answer", through.get("answer") + edge.weight);
    const largest = Math.max(...nodes.filter((node) => !["answer", "position"].includes(node.kind)).map((node) => Math.abs(through.get(node.name))), 1e-9);
    const thickest = Math.max(...edges.map((edge) => Math.abs(edge.weight)), 1e-9);
    let shown = [];

    // What is shown: edges within the share, between nodes above the least, that lead to the answer.
    const chosen = () => {
      const least = Number(leastSlider.value) * largest;
      const passing = (name) => ["answer", "position"].includes(named.get(name).kind) || Math.abs(through.get(name)) >= least;
      const kept = edges.filter((edge) => edge.share < Number(shareSlider.value) && passing(edge.from) && passing(edge.to));
      const leading = reached("answer", "to", "from", kept);
      return kept.filter((edge) => leading.has(edge.to));
    };

    const layout = () => {
      const kept = nodes.filter((node) => node.name === "answer" || shown.some((edge) => edge.from === node.name));
      const columns = [...new Set(kept.map((node) => node.at))].sort((a, b) => a - b);
      const levels = [...new Set(kept.map((node) => node.level))].sort((a, b) => b - a);
      const cells = new Map();
      for (const node of kept) {
        const key = `${node.level} ${node.at}`;
        cells.set(key, [...(cells.get(key) ?? []), node]);
      }
      // As many boxes side by side as make the fullest cell of a column about square.
      const abreast = new Map(columns.map((at) => [at, Math.ceil(Math.sqrt(Math.max(...levels.map((level) => cells.get(`${level} ${at}`)?.length ?? 0))))]));
      const lefts = new Map();
      let x = SIDE;
      columns.forEach((at, i) => {
        if (i && at > columns[i - 1] + 1) x += 3 * GAP;
        lefts.set(at, x);
        x += abreast.get(at) * (BOX + GAP) + GAP;
      });
      let y = TOP;
      const rows = [];
      const places = new Map();
      for (const level of levels) {
        let lines = 1;
        for (const at of columns) {
          const cell = (cells.get(`${level} ${at}`) ?? []).sort((a, b) => Math.abs(through.get(b.name)) - Math.abs(through.get(a.name)));
          cell.forEach((node, i) => {
            const across = abreast.get(at);
            const width = Math.min(across, cell.length) * (BOX + GAP);
            const left = lefts.get(at) + (across * (BOX + GAP) - width) / 2;
            places.set(node.name, { x: left + (i % across) * (BOX + GAP), y: y + Math.floor(i / across) * (TALL + GAP / 2) });
          });
          lines = Math.max(lines, Math.ceil(cell.length / abreast.get(at)));
        }
        const height = lines * (TALL + GAP / 2);
        rows.push({ level, y: y + height / 2 });
        y += height + ROW;
      }
      const gaps = columns.filter((at, i) => i && at > columns[i - 1] + 1).map((at) => ({ x: lefts.get(at) - 2 * GAP, y: y - ROW - TALL / 2 }));
      return { places, rows, gaps, width: x, height: y - ROW + GAP };
    };

    const draw = () => {
      shown = chosen();
      const { places, rows, gaps, width, height } = layout();
      field.replaceChildren();
      const svg = element("svg", { viewBox: `0 0 ${width} ${height}`, width, height, role: "group", "aria-label": "flow of the prediction" }, field);
      for (const { level, y } of rows) {
        const text = level === 0 ? "tokens" : named.get("answer").level === level ? "" : `L${Math.ceil(level / 2) - 1} ${level % 2 ? "attn" : "MLP"}`;
        element("text", { class: "level", x: 2, y: y + 4 }, svg, text);
      }
      for (const { x, y } of gaps) element("text", { class: "level", x: x - 4, y: y + 4 }, svg, "…");
      for (const edge of [...shown].reverse()) {
        const [a, b] = [places.get(edge.from), places.get(edge.to)];
        const [x0, y0, x1, y1] = [a.x + BOX / 2, a.y, b.x + BOX / 2, b.y + TALL];
        const middle = (y0 + y1) / 2;
        const line = element("path", {
          class: `edge${edge.weight < 0 ? " down" : ""}`, "data-from": edge.from, "data-to": edge.to,
          d: `M${x0},${y0}C${x0},${middle} ${x1},${middle} ${x1},${y1}`,
          "stroke-width": Math.max(0.7, (12 * Math.abs(edge.weight)) / thickest).toFixed(2),
        }, svg);
        element("title", {}, line, `${edge.from} → ${edge.to}: ${nats(edge.weight)} nats`);
      }
      for (const [name, { x, y }] of places) {
        const node = named.get(name);
        const mark = element("g", { class: `node ${node.kind}`, "data-name": name, "data-unit": node.unit, transform: `translate(${x} ${y})`, tabindex: 0, role: "button" }, svg);
        const promoted = node.promotes.length ? `\npromotes ${node.promotes.join(" | ")}` : "";
        element("title", {}, mark, `${name}: ${nats(through.get(name))} nats${promoted}`);
        element("rect", { width: BOX, height: TALL, rx: 5 }, mark);
        const short = (text, letters) => (text.length > letters ? `${text.slice(0, letters - 1)}…` : text);
        element("text", { x: BOX / 2, y: node.word ? 13 : 20 }, mark, short(node.label, 14));
        if (node.word) element("text", { class: "word", x: BOX / 2, y: 26 }, mark, `${node.kind === "head" ? "reads " : ""}${short(node.word, 14 - 5 * (node.kind === "head"))}`);
      }
      follow(pointed);
      mark(pinned);
    };

    // Paths of the node pointed at: what leads to it, and what it leads to.
    let pointed = "";
    const ofUnit = (unit) => nodes.filter((node) => unit && node.unit === unit).map((node) => node.name);
    const follow = (unit) => {
      pointed = unit;
      const names = ofUnit(unit).filter((name) => name === "answer" || shown.some((edge) => edge.from === name));
      const before = new Set(names.flatMap((name) => [...reached(name, "to", "from", shown)]));
      const after = new Set(names.flatMap((name) => [...reached(name, "from", "to", shown)]));
      for (const each of field.querySelectorAll(".node")) each.classList.toggle("dim", names.length > 0 && !before.has(each.dataset.name) && !after.has(each.dataset.name));
      for (const each of field.querySelectorAll(".edge")) {
        const { from, to } = each.dataset;
        each.classList.toggle("dim", names.length > 0 && !(before.has(from) && before.has(to)) && !(after.has(from) && after.has(to)));
      }
    };

    // The panel of the node that is pinned.
    let pinned = state.get("pin") ?? "";
    const mark = (unit) => {
      pinned = unit;
      for (const each of field.querySelectorAll(".node")) each.classList.toggle("pinned", each.dataset.unit === unit);
      const names = ofUnit(unit);
      panel.hidden = names.length === 0;
      panel.replaceChildren();
      const add = (tag, text, parent = panel, name = "") => {
        const made = document.createElement(tag);
        made.textContent = text;
        made.className = name;
        parent.append(made);
        return made;
      };
      for (const name of names) {
        const node = named.get(name);
        add("h3", `${name}${node.word ? ` · ${node.kind === "head" ? "reads " : ""}${node.word}` : ""}`);
        add("p", `${{ position: `token ${tokens[node.at]} at position ${node.at}`, query: `query neuron at ${tokens[node.at]} @${node.at}`, head: "attention head", value: "value neuron", answer: "the answer" }[node.kind]}, ${nats(through.get(name))} nats`);
        if (node.promotes.length) add("p", "promotes ").append(...node.promotes.map((text) => Object.assign(document.createElement("bdi"), { className: "token", textContent: text })));
        for (const [title, mine, other] of [["from", "to", "from"], ["to", "from", "to"]]) {
          const found = edges.filter((edge) => edge[mine] === name).slice(0, 12);
          if (!found.length) continue;
          const table = add("table", "");
          add("caption", title, table);
          for (const edge of found) {
            const row = add("tr", "", table);
            const end = named.get(edge[other]);
            add("td", `${edge[other] === "answer" ? end.label : edge[other]} ${end.kind === "position" ? end.label : end.word}`, row);
            add("td", nats(edge.weight), row, "num");
          }
        }
        if (page.querySelector(`tr[data-unit="${CSS.escape(unit)}"]`)) {
          const link = add("button", "show its row");
          link.type = "button";
          link.addEventListener("click", () => page.querySelector(`tr[data-unit="${CSS.escape(unit)}"]`).scrollIntoView({ block: "center" }));
        }
      }
    };

    const threshold = () => {
      shareText.textContent = `${Math.round(100 * shareSlider.value)} % of the flow`;
      leastText.textContent = `${(Number(leastSlider.value) * largest).toPrecision(2)} nats`;
      draw();
    };
    for (const [key, slider, first] of [["share", shareSlider, flow.dataset.share], ["least", leastSlider, "0"]]) {
      if (state.get(key)) slider.value = state.get(key);
      slider.addEventListener("input", () => {
        state.set(key, slider.value === first ? "" : slider.value);
        threshold();
      });
    }
    page.addEventListener("tna:point", (event) => follow(event.detail));
    page.addEventListener("tna:pin", (event) => mark(event.detail));
    threshold();
    field.scrollLeft = field.scrollWidth; // on a narrow screen the answer is seen first
  }
};
window.tnaFlows(document);
