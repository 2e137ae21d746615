"use strict";
// What both pages are drawn with. Text always enters by textContent, so that nothing in the data becomes markup.

// element("p", {class: "note"}, "text", child...)
function element(name, attributes, ...children) {
  const node = document.createElement(name);
  for (const [key, value] of Object.entries(attributes || {})) {
    if (key.startsWith("on")) node.addEventListener(key.slice(2), value);
    else if (key.startsWith("--")) node.style.setProperty(key, value);
    else if (value !== null && value !== undefined) node.setAttribute(key, value);
  }
  node.append(...children.filter((child) => child !== null && child !== undefined));
  return node;
}

function svgElement(name, attributes) {
  const node = document.createElementNS("http://www.w3.org/2000/svg", name);
  for (const [key, value] of Object.entries(attributes)) node.setAttribute(key, value);
  return node;
}

const percent = (share) => (100 * share).toFixed(share !== 0 && Math.abs(share) < 0.01 ? 2 : 1) + "%";
const sum = (values) => values.reduce((a, b) => a + b, 0);
const count = (number) => number.toLocaleString("en-US");

// A number as short as it stays readable.
function short(value) {
  if (value === null || value === undefined || Number.isNaN(value)) return "–";
  const size = Math.abs(value);
  if (size >= 1e6) return (value / 1e6).toFixed(2) + "M";
  if (size >= 1e4) return (value / 1e3).toFixed(1) + "k";
  if (size === 0) return "0";
  if (size < 1e-3) return value.toExponential(1);
  return String(Number(value.toPrecision(4)));
}

function page() { return document.getElementById("page"); }
function pageData() { return JSON.parse(document.getElementById("data").textContent); }

function heading(title, facts) {
  const line = element("p", {class: "facts"});
  facts.forEach(([name, value], i) => line.append(i ? "  ·  " : "", name + " ", element("b", {}, value)));
  page().append(element("h1", {}, title), line);
}

function card(parent, title, note, ...children) {
  const box = element("section", {class: "card"}, title ? element("h2", {}, title) : null,
                      note ? element("p", {class: "note"}, note) : null, ...children);
  parent.append(box);
  return box;
}

// Rows of {name, cells: [{text, share}]}; share (0 to 1) colours the cell.
function table(header, rows, caption) {
  const body = element("tbody", {});
  for (const row of rows) {
    const line = element("tr", {}, element("th", {scope: "row"}, row.name));
    for (const cell of row.cells) {
      const shaded = cell.share !== undefined;
      line.append(element("td", shaded ? {class: "heat", "--share": Math.min(cell.share, 1).toFixed(3)} : {}, cell.text));
    }
    body.append(line);
  }
  return element("div", {class: "scroll"}, element("table", {}, caption ? element("caption", {}, caption) : null,
    element("thead", {}, element("tr", {}, ...header.map((name) => element("th", {scope: "col"}, name)))), body));
}

// Round numbers that divide [low, high] into about `parts`.
function ticks(low, high, parts) {
  const rough = (high - low) / parts || 1;
  const power = 10 ** Math.floor(Math.log10(rough));
  const step = [1, 2, 5, 10].map((m) => m * power).find((s) => s >= rough * 0.999);
  const marks = [];
  for (let at = Math.ceil(low / step - 1e-9) * step; at <= high + step * 1e-6; at += step) marks.push(Number(at.toPrecision(12)));
  return marks;
}

// The colours of lines: apart in hue, of equal weight in light and dark.
const lineColour = (i) => `hsl(${[214, 24, 150, 285, 0, 190, 48, 330][i % 8]} 70% var(--strong-l))`;

// series: [{name, x: [], y: [], dots}]; null values leave gaps. The values under the pointer (or the arrow keys)
// stand above the chart.
function lineChart(parent, {title, series, format = short, fromZero = false}) {
  const shown = series.filter((line) => line.y.some((value) => value !== null));
  if (shown.length === 0) return;
  const [W, H, left, right, top, bottom] = [560, 220, 52, 10, 8, 22];
  const xs = shown.flatMap((line) => line.x);
  const ys = shown.flatMap((line) => line.y.filter((value) => value !== null));
  const [x0, x1] = [Math.min(...xs), Math.max(...xs)];
  let [y0, y1] = [fromZero ? Math.min(0, ...ys) : Math.min(...ys), Math.max(...ys)];
  if (y0 === y1) [y0, y1] = [fromZero ? y0 : y0 - Math.abs(y0) * 0.1, y1 + (Math.abs(y1) * 0.1 || 1)];
  const toX = (x) => left + (W - left - right) * (x1 > x0 ? (x - x0) / (x1 - x0) : 0.5);
  const toY = (y) => H - bottom - (H - top - bottom) * (y - y0) / (y1 - y0);

  const svg = svgElement("svg", {viewBox: `0 0 ${W} ${H}`, role: "img", tabindex: "0",
    "aria-label": `${title}: ` + shown.map((line) => `${line.name} from ${format(line.y.find((v) => v !== null))} to ` +
      format(line.y.findLast((v) => v !== null))).join("; ")});
  const label = (x, y, anchor, text) => {
    const node = svgElement("text", {x, y, "text-anchor": anchor});
    node.textContent = text;
    svg.append(node);
  };
  for (const y of ticks(y0, y1, 4)) {
    svg.append(svgElement("line", {class: "rule", x1: left, x2: W - right, y1: toY(y), y2: toY(y)}));
    label(left - 6, toY(y) + 4, "end", format(y));
  }
  for (const x of ticks(x0, x1, 6)) label(toX(x), H - 6, "middle", short(x));
  shown.forEach((line, i) => {
    const points = line.x.map((x, k) => [x, line.y[k]]);
    let path = "";
    points.forEach(([x, y], k) => {
      if (y === null) return;
      path += `${k > 0 && points[k - 1][1] !== null ? "L" : "M"}${toX(x).toFixed(1)} ${toY(y).toFixed(1)}`;
    });
    svg.append(svgElement("path", {class: "line", d: path, style: `stroke: ${lineColour(i)}`}));
    if (line.dots || points.length === 1) {
      for (const [x, y] of points) {
        if (y !== null) svg.append(svgElement("circle", {cx: toX(x), cy: toY(y), r: 3, style: `fill: ${lineColour(i)}`}));
      }
    }
  });

  const value = element("span", {class: "value", "aria-live": "polite"});
  const cursor = svgElement("line", {class: "cursor", y1: top, y2: H - bottom, visibility: "hidden"});
  svg.append(cursor);
  const steps = [...new Set(xs)].sort((a, b) => a - b);
  let at = steps.length - 1;
  const nearest = (list, x) => list.reduce((best, other, k) => Math.abs(other - x) < Math.abs(list[best] - x) ? k : best, 0);
  const show = () => {
    cursor.setAttribute("visibility", "visible");
    cursor.setAttribute("x1", toX(steps[at]));
    cursor.setAttribute("x2", toX(steps[at]));
    value.textContent = `step ${steps[at]}: ` + shown.map((line) => {
      const k = nearest(line.x, steps[at]);
      return (shown.length > 1 ? line.name + " " : "") + format(line.y[k]);
    }).join(", ");
  };
  svg.addEventListener("pointermove", (event) => {
    const box = svg.getBoundingClientRect();
    const x = (event.clientX - box.left) / box.width * W;
    at = nearest(steps, x0 + (x1 - x0) * (x - left) / (W - left - right));
    show();
  });
  svg.addEventListener("pointerleave", () => { cursor.setAttribute("visibility", "hidden"); value.textContent = ""; });
  svg.addEventListener("keydown", (event) => {
    const move = {ArrowLeft: -1, ArrowRight: 1, Home: -steps.length, End: steps.length}[event.key];
    if (!move) return;
    event.preventDefault();
    at = Math.min(Math.max(at + move, 0), steps.length - 1);
    show();
  });
  const keys = shown.length > 1 ? shown.map((line, i) => element("span", {class: "key", "--colour": lineColour(i)}, line.name)) : [];
  const box = card(parent, null, null, element("figure", {}, element("figcaption", {}, title, ...keys, value), svg));
  return box;
}

// Experts (rows, from the top) over steps (columns): the darker, the larger the expert's share of a step's load.
// loads: [steps][E]
function heatMap(title, steps, loads) {
  const experts = loads[0].length;
  const canvas = element("canvas", {width: steps.length, height: experts, tabindex: "0", role: "img",
    "aria-label": `${title}: share of the load of ${experts} experts over ${steps.length} steps`});
  canvas.style.height = `${Math.min(Math.max(experts * 11, 60), 320)}px`;
  const shares = loads.map((load) => { const all = sum(load) || 1; return load.map((c) => c / all); });
  // Twice the even share is full colour: over- and underused stand out alike.
  const context = canvas.getContext("2d");
  const paint = () => {
    const rgb = getComputedStyle(document.documentElement).getPropertyValue("--heat");
    context.clearRect(0, 0, steps.length, experts);
    shares.forEach((row, x) => row.forEach((share, y) => {
      context.fillStyle = `rgba(${rgb}, ${Math.min(share * experts / 2, 1)})`;
      context.fillRect(x, y, 1, 1);
    }));
  };
  paint();
  matchMedia("(prefers-color-scheme: dark)").addEventListener("change", paint);
  const value = element("span", {class: "value", "aria-live": "polite"});
  let [x, y] = [steps.length - 1, 0];
  const show = () => { value.textContent = `step ${steps[x]}, expert ${y}: ${percent(shares[x][y])}`; };
  canvas.addEventListener("pointermove", (event) => {
    const box = canvas.getBoundingClientRect();
    x = Math.min(Math.max(Math.floor((event.clientX - box.left) / box.width * steps.length), 0), steps.length - 1);
    y = Math.min(Math.max(Math.floor((event.clientY - box.top) / box.height * experts), 0), experts - 1);
    show();
  });
  canvas.addEventListener("pointerleave", () => { value.textContent = ""; });
  canvas.addEventListener("keydown", (event) => {
    const move = {ArrowLeft: [-1, 0], ArrowRight: [1, 0], ArrowUp: [0, -1], ArrowDown: [0, 1]}[event.key];
    if (!move) return;
    event.preventDefault();
    x = Math.min(Math.max(x + move[0], 0), steps.length - 1);
    y = Math.min(Math.max(y + move[1], 0), experts - 1);
    show();
  });
  return element("figure", {}, element("figcaption", {}, title, value), canvas,
    element("div", {class: "axis"}, element("span", {}, `step ${steps[0]}`), element("span", {}, `step ${steps[steps.length - 1]}`)));
}

// counts over equal bins of [0, high].
function histogram(title, counts, high) {
  const [W, H, bottom] = [420, 120, 18];
  const svg = svgElement("svg", {viewBox: `0 0 ${W} ${H}`, role: "img", "aria-label": title});
  const most = Math.max(...counts, 1);
  counts.forEach((c, i) => {
    const width = W / counts.length;
    const height = (H - bottom - 4) * c / most;
    const bar = svgElement("rect", {class: "mass", x: i * width + 1, width: width - 2, y: H - bottom - height, height});
    const name = svgElement("title", {});
    name.textContent = `${short(high * i / counts.length)} to ${short(high * (i + 1) / counts.length)}: ${count(c)} tokens`;
    bar.append(name);
    svg.append(bar);
  });
  svg.append(svgElement("line", {class: "rule", x1: 0, x2: W, y1: H - bottom, y2: H - bottom}));
  [[0, "start", "0"], [W / 2, "middle", short(high / 2)], [W, "end", short(high)]].forEach(([x, anchor, text]) => {
    const node = svgElement("text", {x, y: H - 4, "text-anchor": anchor});
    node.textContent = text;
    svg.append(node);
  });
  return element("figure", {}, element("figcaption", {}, title), svg);
}
