"use strict";
// The page of `conclave inspect`: trainer/inspect/inspect_page.cc says what the data hold.
{
  const data = pageData();
  const T = data.tokens.length;
  const state = {layer: 0, choice: 0, expert: null, at: 0};

  // Neighbouring ids are far apart in hue (the golden angle), and three tones tell close hues apart.
  const colour = (e) => ({"--hue": ((e * 137.508) % 360).toFixed(1), "--tone": `${(e % 3 - 1) * 5}%`});
  const paint = (node, e) => { for (const [key, value] of Object.entries(colour(e))) node.style.setProperty(key, value); };
  const weight = (layer, t, k) => (layer.weights[t * layer.shown + k] / 1000).toFixed(2);
  const expertAt = (layer, t, k) => k < layer.shown ? layer.chosen[t * layer.shown + k] : -1;

  heading(data.title, data.facts);

  // ---- what is chosen ----
  const option = (value, text) => element("option", {value}, text);
  const layerSelect = element("select", {id: "layer", onchange: (e) => { state.layer = Number(e.target.value); state.expert = null; redraw(); }},
    ...data.layers.map((layer, i) => option(i, `layer ${layer.block}`)));
  const mostChoices = Math.max(...data.layers.map((layer) => layer.shown));
  const choiceSelect = element("select", {id: "choice", onchange: (e) => { state.choice = Number(e.target.value); redraw(); }},
    ...Array.from({length: mostChoices}, (_, k) => option(k, ["first", "second", "third", "fourth"][k] || `no. ${k + 1}`)));
  page().append(element("div", {class: "controls"},
    element("label", {for: "layer"}, "Colour by the experts of", layerSelect),
    element("label", {for: "choice"}, "by weight the", choiceSelect),
    element("span", {class: "hint"}, element("kbd", {}, "←"), " ", element("kbd", {}, "→"), " in the text: token; ",
      element("kbd", {}, "["), " ", element("kbd", {}, "]"), ": layer; click an expert: its tokens alone")));

  // ---- the text, its legend, and one token in all layers ----
  const text = element("div", {class: "text", tabindex: "0", role: "application", "aria-label": "The text, coloured by expert; arrow keys move between tokens"});
  const spans = [];
  let section = 0;
  for (let t = 0; t < T; ++t) {
    if (section < data.sections.length && data.sections[section].first === t) {
      if (data.sections.length > 1) text.append(element("h3", {}, data.sections[section].name));
      ++section;
    }
    const shown = data.tokens[t];
    const span = document.createElement("i");
    span.textContent = shown === "" ? "·" : shown.replaceAll("\n", "↵\n");
    if (!data.has_text) span.className = "id";
    else if (data.ids[t] < 0 || shown === "" || /^(\\x[0-9a-f]{2})+$/.test(shown)) span.className = "byte";
    span.dataset.t = t;
    spans.push(span);
    text.append(span);
  }
  const legend = element("div", {class: "legend"});
  const detail = element("div", {class: "detail", "aria-live": "polite"});
  const legendTitle = element("h3", {}, "");
  page().append(element("div", {class: "reader"},
    element("section", {class: "card"}, text),
    element("div", {class: "side"},
      element("section", {class: "card"}, element("h3", {}, "Token"), detail),
      element("section", {class: "card"}, legendTitle, legend))));

  const chip = (e, words) => {
    const node = element("span", {class: "chip"}, words);
    paint(node, e);
    return node;
  };

  function showToken(t) {
    spans[state.at].classList.remove("at");
    state.at = t;
    spans[t].classList.add("at");
    const rows = data.layers.map((layer) => {
      const cell = element("td", {});
      for (let k = 0; k < layer.shown && expertAt(layer, t, k) >= 0; ++k) cell.append(chip(expertAt(layer, t, k), `e${expertAt(layer, t, k)} ${weight(layer, t, k)}`));
      if (layer.more && layer.more[t] > 0) cell.append(`+${layer.more[t]}: ${(layer.more_weight[t] / 1000).toFixed(2)}`);
      if (expertAt(layer, t, 0) < 0) cell.append("none");
      return element("tr", {}, element("th", {scope: "row"}, `layer ${layer.block}`), cell);
    });
    const shown = {" ": "space", "\n": "newline", "\t": "tab", "": "…"}[data.tokens[t]] ||
      data.tokens[t].replaceAll(" ", "␣").replaceAll("\n", "↵").replaceAll("\t", "⇥");
    detail.replaceChildren(element("div", {class: "what"}, shown),
      element("div", {class: "hint"}, data.ids[t] < 0 ? "padding" : `no. ${t}, ${data.bytes ? "byte" : "id"} ${data.ids[t]}`),
      element("table", {}, element("tbody", {}, ...rows)));
  }
  text.addEventListener("pointerover", (event) => { if (event.target.dataset.t !== undefined) showToken(Number(event.target.dataset.t)); });
  text.addEventListener("keydown", (event) => {
    const move = {ArrowLeft: -1, ArrowRight: 1, ArrowUp: -20, ArrowDown: 20, Home: -T, End: T}[event.key];
    if (!move) return;
    event.preventDefault();
    showToken(Math.min(Math.max(state.at + move, 0), T - 1));
    spans[state.at].scrollIntoView({block: "nearest"});
  });
  document.addEventListener("keydown", (event) => {
    const move = {"[": -1, "]": 1}[event.key];
    if (event.key === "Escape") { state.expert = null; redraw(); }
    if (!move) return;
    state.layer = Math.min(Math.max(state.layer + move, 0), data.layers.length - 1);
    state.expert = null;
    redraw();
  });

  function drawLegend(layer) {
    legendTitle.textContent = `Experts of layer ${layer.block}`;
    const all = sum(layer.load) || 1;
    const most = Math.max(...layer.load, 1);
    legend.replaceChildren(...layer.load.map((load, e) => {
      const bar = element("span", {style: `width: ${100 * load / most}%`});
      paint(bar, e);
      return element("button", {"aria-pressed": String(state.expert === e), title: `${count(load)} choices of ${count(all)}`,
        onclick: () => { state.expert = state.expert === e ? null : e; redraw(); legend.children[e].focus(); }},
        element("span", {}, `e${e}`), element("span", {class: "load"}, percent(load / all)), element("span", {class: "bar"}, bar));
    }));
  }

  // ---- the tables of the chosen layer ----
  const ofLayer = element("div", {});
  const summaryBox = element("div", {});
  page().append(summaryBox, ofLayer);

  // Shares of each group's choices by expert; a group's strongest expert is full in colour.
  function shares(groups, loads, layer) {
    const rows = layer.load.map((_, e) => ({name: `e${e}`, cells: groups.map((_, g) => {
      const all = sum(loads[g]) || 1;
      return {text: loads[g][e] ? percent(loads[g][e] / all) : "·", share: loads[g][e] / (Math.max(...loads[g]) || 1) * 0.7};
    })}));
    return table(["expert", ...groups], rows);
  }

  function drawLayer(layer) {
    ofLayer.replaceChildren();
    const grid = element("div", {class: "grid"});
    ofLayer.append(grid);
    if (layer.by_class) {
      const used = data.classes.map((name, c) => c).filter((c) => sum(layer.by_class[c]) > 0);
      card(grid, `Experts by kind of byte, layer ${layer.block}`, "Share of the choices of each kind of byte that an expert takes.",
        shares(used.map((c) => data.classes[c]), used.map((c) => layer.by_class[c]), layer));
    }
    if (data.sources.length > 1) {
      card(grid, `Experts by source, layer ${layer.block}`, "Share of the choices of each source that an expert takes.",
        shares(data.sources, layer.by_source, layer));
    }
  }

  const optional = (value, show) => value === null ? "–" : show(value);
  card(summaryBox, "Layers", "load: largest / mean, and entropy (1 is even). by token, by layer before: how often a token's first expert is " +
    "the usual one for its id, or for its first expert in the layer before. A layer high in the first goes by the token alone.",
    table(["layer", "experts a token", "load max/mean", "load entropy", "router entropy", "dead experts", "by token", "by layer before"],
      data.layers.map((layer) => ({name: String(layer.block), cells: [
        {text: layer.experts_per_token.toFixed(2)}, {text: layer.load_imbalance.toFixed(2)}, {text: layer.load_entropy.toFixed(3)},
        {text: optional(layer.router_entropy, (v) => v.toFixed(3))}, {text: `${layer.dead_experts} of ${layer.experts}`},
        {text: optional(layer.by_token, percent)}, {text: optional(layer.by_expert_before, percent)}]}))));

  if (data.layers.some((layer) => layer.entropy_histogram.length > 0)) {
    const box = card(page(), "How sure the routers are", "Tokens by the entropy of their distribution over the experts, in nats: 0 is sure of one expert, the right end (ln E) knows nothing.");
    const grid = element("div", {class: "grid"});
    box.append(grid);
    for (const layer of data.layers) {
      if (layer.entropy_histogram.length > 0) grid.append(histogram(`layer ${layer.block}`, layer.entropy_histogram, Math.log(layer.experts)));
    }
  }
  if (data.evolution) {
    const box = card(page(), "Load over the recorded steps", "Each row an expert, each column a record: its share of the layer's choices; full colour is twice the even share or more.");
    const grid = element("div", {class: "grid"});
    box.append(grid);
    data.evolution.loads.forEach((loads, i) => grid.append(heatMap(`layer ${data.layers[i].block}`, data.evolution.steps, loads)));
  }

  function redraw() {
    const layer = data.layers[state.layer];
    layerSelect.value = state.layer;
    choiceSelect.value = state.choice;
    drawLegend(layer);
    drawLayer(layer);
    text.classList.toggle("chosen", state.expert !== null);
    for (let t = 0; t < T; ++t) {
      const e = expertAt(layer, t, state.choice);
      spans[t].classList.toggle("none", e < 0);
      spans[t].classList.toggle("hit", e >= 0 && e === state.expert);
      if (e >= 0) paint(spans[t], e);
    }
    showToken(state.at);
  }
  redraw();
}
