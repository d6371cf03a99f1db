import Table from "cli-table3";
import { printable, type Colors } from "./output.ts";

/** A cell: text, or text with a colour that is applied after the text was made harmless. */
export type Cell = string | number | { readonly text: string; readonly paint: (text: string) => string };

export interface TableContent {
  readonly head: readonly string[];
  readonly rows: readonly (readonly Cell[])[];
  /** Columns of numbers, by index. */
  readonly alignRight?: readonly number[];
}

const noBorders = {
  top: "",
  "top-mid": "",
  "top-left": "",
  "top-right": "",
  bottom: "",
  "bottom-mid": "",
  "bottom-left": "",
  "bottom-right": "",
  left: "",
  "left-mid": "",
  mid: "",
  "mid-mid": "",
  right: "",
  "right-mid": "",
  middle: "  ",
} as const;

const cellText = (cell: Cell): string => {
  if (typeof cell === "object") {
    return cell.paint(printable(cell.text));
  }
  return printable(String(cell));
};

/** A table without lines, its columns two spaces apart, for people; no newline at its end. */
export const renderTable = (content: TableContent, color: Colors): string => {
  const right = new Set(content.alignRight ?? []);
  const table = new Table({
    head: content.head.map((title) => color.bold(title)),
    chars: noBorders,
    colAligns: content.head.map((_, index) => (right.has(index) ? "right" : "left")),
    // The colours are ours: those of cli-table3 ask neither NO_COLOR nor the stream.
    style: { head: [], border: [], "padding-left": 0, "padding-right": 0 },
  });
  table.push(...content.rows.map((row) => row.map(cellText)));
  return table
    .toString()
    .split("\n")
    .map((line) => line.trimEnd())
    .join("\n");
};
