"use strict";
// The report of a run: trainer/report/run_report.cc says what the data hold.
{
  const data = pageData();
  heading(data.title, data.facts);
  const s = data.steps;
  const fixed = (digits) => (value) => value === null ? "–" : value.toFixed(digits);
  const line = (name, y) => ({name, x: s.step, y});

  const charts = element("div", {class: "grid"});
  page().append(charts);
  lineChart(charts, {title: "Loss (nats a token)", format: fixed(3), series: [
    line("training", s.loss), {name: "held out", x: data.evaluations.step, y: data.evaluations.loss, dots: true}]});
  if (data.evaluations.sources.length > 1) {
    lineChart(charts, {title: "Held-out loss by source", format: fixed(3),
      series: data.evaluations.sources.map(({name, loss}) => ({name, x: data.evaluations.step, y: loss, dots: true}))});
  }
  lineChart(charts, {title: "Learning rate", fromZero: true, series: [line("lr", s.lr)]});
  lineChart(charts, {title: "Gradient norm before clipping", series: [line("norm", s.grad_norm)]});
  lineChart(charts, {title: "Tokens a second", fromZero: true, series: [line("tokens/s", s.tokens_per_second)]});
  if (Object.keys(s.time).length > 0) {
    lineChart(charts, {title: "Where the time of a step goes", format: (share) => share === null ? "–" : percent(share), fromZero: true,
      series: Object.entries(s.time).map(([part, shares]) => line(part, shares))});
  }
  if (data.load.layers.length > 0) {
    lineChart(charts, {title: "Load of the busiest expert / mean, worst layer", series: [line("load", s.load_imbalance)]});
    lineChart(charts, {title: "Dropped choices, time in exchanges, imbalance tax, dead experts", format: (share) => share === null ? "–" : percent(share), fromZero: true,
      series: [line("dropped", s.dropped_fraction), line("exchange", s.exchange_fraction), line("imbalance tax", s.imbalance_tax), line("dead", s.dead_experts)]});
    lineChart(charts, {title: "Entropy: of the load (/ ln E), of a token's router (nats)",
      series: [line("load", s.load_entropy), line("router", s.router_entropy)]});
    const box = card(page(), "Which experts worked",
      "Each row an expert, each column a step: its share of the layer's choices; full colour is twice the even share or more.");
    const maps = element("div", {class: "grid"});
    box.append(maps);
    data.load.layers.forEach((loads, i) => maps.append(heatMap(`MoE layer ${i}`, data.load.steps, loads)));
  }
  const evaluations = data.evaluations;
  if (evaluations.step.length > 0) {
    const rows = evaluations.step.map((step, i) => ({name: String(step), cells: [
      {text: fixed(4)(evaluations.loss[i])},
      ...evaluations.sources.map(({loss}) => ({text: fixed(4)(loss[i])}))]}));
    card(page(), "Held-out loss (nats a token)", null, table(["step", "all", ...evaluations.sources.map(({name}) => name)], rows));
  }
  if (data.configuration) {
    card(page(), null, null, element("details", {}, element("summary", {}, "Configuration"), element("pre", {}, data.configuration)));
  }
}
