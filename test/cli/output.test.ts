import { describe, expect, test } from "vitest";
import { createOutput, printable, toJson } from "../../src/cli/output.ts";
import { renderTable } from "../../src/cli/table.ts";
import { memoryStream } from "./harness.ts";

const setUp = (terminal: boolean, json = false) => {
  const stdout = memoryStream({ isTTY: terminal, columns: 40 });
  const stderr = memoryStream({ isTTY: terminal, columns: 40 });
  let nowMs = 0;
  const clock = { monotonic: () => nowMs };
  const output = createOutput({ stdout, stderr, env: { NO_COLOR: "1" }, clock, flags: { json } });
  const advance = (ms: number): void => {
    nowMs += ms;
  };
  return { output, stdout, stderr, advance };
};

describe("progress", () => {
  test("replaces its line on a terminal, and makes room for what is said", () => {
    const { output, stdout, stderr } = setUp(true);
    output.progress("one");
    output.progress("a line that is longer than the terminal is wide");
    output.note("note");
    output.progress("two");
    output.line("data");
    output.note("end");
    const clear = "\r\u001b[K";
    expect(stderr.text()).toBe(
      `${clear}one${clear}a line that is longer than the terminal${clear}note\n${clear}two${clear}end\n`,
    );
    expect(stdout.text()).toBe("data\n");
  });

  test("is a line every five seconds off a terminal, without control characters", () => {
    const { output, stderr, advance } = setUp(false);
    for (let second = 0; second <= 10; second += 1) {
      output.progress(`at ${second} s`);
      advance(1_000);
    }
    expect(stderr.text()).toBe("at 0 s\nat 5 s\nat 10 s\n");
  });
});

test("a result is text, or JSON with --json: a line of it off a terminal", () => {
  const value = { version: 2n ** 62n, map: new Map([["a", 1]]) };
  const json = '{"version":"4611686018427387904","map":{"a":1}}';
  const results = [setUp(false), setUp(false, true), setUp(true, true)].map(({ output, stdout }) => {
    output.result(value, () => "text");
    return stdout.text();
  });
  expect(results).toEqual(["text\n", `${json}\n`, `${toJson(value, 2)}\n`]);
});

test("a table keeps its columns, whatever is in it", () => {
  const { output } = setUp(false);
  const text = renderTable(
    {
      head: ["A", "N"],
      rows: [
        ["x", 1],
        ["\u001b[31mred\nline", 100],
        [{ text: "naïve 日本", paint: (inner) => `<${inner}>` }, "2"],
      ],
      alignRight: [1],
    },
    output.color,
  );
  expect(text).toBe(
    ["A               N", "x               1", "\\x1b[31mred   100", "line", "<naïve 日本>    2"].join("\n"),
  );
});

test("control characters are shown, not obeyed; text is left as it is", () => {
  expect(printable("a\tb\nc é 日本 🙂")).toBe("a\tb\nc é 日本 🙂");
  expect(printable("\r\u001b]0;x\u0007\u007f\u0085\u202e")).toBe("\\x0d\\x1b]0;x\\x07\\x7f\\x85\\u202e");
});
