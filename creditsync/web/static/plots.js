// The moving plots: lines in SVG over the last five minutes.

import { rate, seconds } from "./format.js";
import { $, element, write } from "./page.js";

const SPAN = 300;
const [WIDTH, HEIGHT] = [600, 100];
// Seconds between two points from which on there is a gap in the line.
const GAP = 3.5;

const svg = (name, attributes, ...children) => {
  const made = document.createElementNS("http://www.w3.org/2000/svg", name);
  for (const [key, value] of Object.entries(attributes)) made.setAttribute(key, value);
  made.append(...children);
  return made;
};

// Durations always have the same scale, so that nights can be compared.
const DECADES = [0.0001, 0.001, 0.01, 0.1, 1, 10];
const logarithmic = {
  format: seconds,
  ticks: () => DECADES,
  label: (value) => (value < 1 ? `${value * 1000} ms` : `${value} s`),
  part: (value) => (Math.log10(Math.max(value, DECADES[0])) + 4) / 5,
};

const linear = () => {
  let top = 2;
  return {
    format: rate,
    ticks: (most) => {
      const power = 10 ** Math.floor(Math.log10(Math.max(most, 2)));
      top = [1, 2, 4, 6, 8, 10].map((each) => each * power)
        .find((each) => each >= Math.max(most, 2));
      return [0, top / 2, top];
    },
    label: rate,
    part: (value) => value / top,
  };
};

class Plot {
  #paths = [];
  #values = [];
  #labels = "";

  // A line is [member of a point, its name, its look].
  constructor(id, title, scale, lines) {
    this.scale = scale;
    this.lines = lines;
    this.grid = svg("g", { class: "grid" });
    const drawing = svg("svg", {
      viewBox: `0 0 ${WIDTH} ${HEIGHT}`, preserveAspectRatio: "none",
      role: "img", "aria-label": `${title}, over the last five minutes`,
    }, this.grid);
    this.axis = element("div", { className: "axis", ariaHidden: "true" });
    const legend = element("ul", { className: "legend" });
    for (const [, name, look] of lines) {
      this.#paths.push(drawing.appendChild(svg("path", { class: look })));
      const value = element("b", { textContent: "–" });
      this.#values.push(value);
      const sample = svg("svg", { viewBox: "0 0 20 4", "aria-hidden": "true" },
        svg("path", { class: look, d: "M0 2H20" }));
      legend.append(element("li", {}, sample, `${name} `, value));
    }
    const times = element("div", { className: "times", ariaHidden: "true" });
    times.append(...["−5 min", "−4", "−3", "−2", "−1", "now"].map((each) =>
      element("span", { textContent: each })));
    $(id).append(
      element("figcaption", {}, element("h2", { textContent: title }), legend),
      element("div", { className: "area" }, this.axis, drawing), times,
    );
  }

  draw(points) {
    const last = points.at(-1);
    if (!last) return;
    const most = points.reduce((found, point) =>
      Math.max(found, ...this.lines.map(([key]) => point[key] ?? 0)), 0);
    this.#drawGrid(this.scale.ticks(most));
    this.lines.forEach(([key], index) => {
      this.#paths[index].setAttribute("d", this.#path(points, key, last.time));
      write(this.#values[index], this.scale.format(last[key]));
    });
  }

  #height(value) {
    return HEIGHT * (1 - Math.min(1, this.scale.part(value)));
  }

  #drawGrid(ticks) {
    if (this.#labels === ticks.join()) return;
    this.#labels = ticks.join();
    this.grid.replaceChildren(...ticks.map((tick) =>
      svg("path", { d: `M0 ${this.#height(tick)}H${WIDTH}` })));
    this.axis.replaceChildren(...ticks.map((tick) => {
      const label = element("span", { textContent: this.scale.label(tick) });
      label.style.top = `${this.#height(tick)}%`;
      return label;
    }));
  }

  #path(points, key, now) {
    let [drawn, before] = ["", -Infinity];
    for (const point of points) {
      const value = point[key];
      if (value === null || value === undefined) continue;
      const x = (WIDTH * (1 - (now - point.time) / SPAN)).toFixed(1);
      const y = this.#height(value).toFixed(1);
      // A single point is a dot: the caps of a line without length.
      drawn += point.time - before > GAP ? `M${x} ${y}h0L${x} ${y}` : `L${x} ${y}`;
      before = point.time;
    }
    return drawn;
  }
}

export class Plots {
  #points = [];
  #plots = [
    new Plot("plot-replies", "Replies per second", linear(), [
      ["ok", "succeeded", "line one"], ["refused", "refused", "line two"],
      ["unknown", "unknown", "line three"]]),
    new Plot("plot-took", "From request to reply", logarithmic, [
      ["p50", "p50", "line one"], ["p90", "p90", "line two"],
      ["p99", "p99", "line three"]]),
    new Plot("plot-waits", "Pending requests, queued operations", linear(), [
      ["waiters", "requests", "line one"],
      ["queued", "operations", "line two"]]),
    new Plot("plot-commits", "Commits and reactor", logarithmic, [
      ["commit_p50", "commit p50", "line one"],
      ["commit_p99", "commit p99", "line two"], ["lag", "reactor lag", "line three"]]),
  ];

  fill(points) {
    this.#points = points.slice(-SPAN);
  }

  add(point) {
    const last = this.#points.at(-1);
    if (last?.time !== point.time) this.#points.push(point);
    while (this.#points[0].time < point.time - SPAN) this.#points.shift();
    for (const plot of this.#plots) plot.draw(this.#points);
  }
}
