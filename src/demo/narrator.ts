import type { Colors, Output } from "../cli/output.ts";

/** Tells the tour: chapters with lines of a label and what was measured. */
export class Narrator {
  readonly #output: Output;
  readonly color: Colors;
  #chapters = 0;

  constructor(output: Output) {
    this.#output = output;
    this.color = output.color;
  }

  /** With --json only the report goes to standard output. */
  say(text = ""): void {
    if (!this.#output.json) {
      this.#output.line(text);
    }
  }

  chapter(title: string): void {
    this.#chapters += 1;
    this.say();
    this.say(this.color.bold(`${this.#chapters}. ${title}`));
  }

  /** `   moldova      ...`: who, and what. */
  line(subject: string, text: string): void {
    this.say(`   ${this.color.cyan(subject.padEnd(12))} ${text}`);
  }

  /** What is going on now; gone as soon as something is said. */
  working(text: string): void {
    this.#output.progress(`   ${text} ...`);
  }
}

/** `0.8 ms`, `12 ms`, `1.24 s`. */
export const elapsed = (ms: number): string => {
  if (ms < 10) {
    return `${ms.toFixed(1)} ms`;
  }
  return ms < 1000 ? `${Math.round(ms)} ms` : `${(ms / 1000).toFixed(ms < 10_000 ? 2 : 1)} s`;
};
