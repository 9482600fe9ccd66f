// The page's elements: texts and rows, changed only where they differ.
//
// All text is set as textContent, so that text from clients is never markup.

import { text } from "./format.js";

export const $ = (id) => document.getElementById(id);

export const write = (element, value) => {
  const written = String(value);
  if (element.textContent !== written) element.textContent = written;
};

export const setText = (id, value) => write($(id), value);

// The style sheet gives "warn" and "bad" a sign too, for people who can't see the
// colour.
export const mark = (element, level) => {
  if (element.dataset.level !== level) element.dataset.level = level;
};

export const element = (name, properties = {}, ...children) => {
  const made = Object.assign(document.createElement(name), properties);
  made.append(...children);
  return made;
};

// Rows of a table, however many there are.
const MAX_ROWS = 50;

export class Table {
  // A column is [function from a row to its text, class]; a mark is a function
  // from a row to [level, part of the bar of the first cell].
  constructor(id, columns, judge = () => ["", 0]) {
    this.body = $(id);
    this.none = $(`${id}-none`);
    this.columns = columns;
    this.judge = judge;
  }

  show(rows) {
    const shown = rows.slice(0, MAX_ROWS);
    while (this.body.rows.length > shown.length) this.body.lastChild.remove();
    while (this.body.rows.length < shown.length) this.body.append(this.#row());
    shown.forEach((row, index) => this.#fill(this.body.rows[index], row));
    if (this.none) this.none.hidden = shown.length > 0;
    return shown.length;
  }

  #row() {
    const cells = this.columns.map(([, kind = ""]) =>
      element("td", { className: kind }));
    return element("tr", {}, ...cells);
  }

  #fill(line, row) {
    this.columns.forEach(([textOf, kind], index) => {
      const cell = line.cells[index];
      write(cell, textOf(row));
      // The end of these may be cut off.
      if (kind === "long") cell.title = cell.textContent;
    });
    const [level, part] = this.judge(row);
    mark(line, level);
    line.cells[0].style.setProperty("--part", part);
  }
}

export const member = (key) => (row) => text(row[key]);
