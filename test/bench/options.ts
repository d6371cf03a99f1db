import { parseArgs } from "node:util";

export const usage = `npm run bench -- [options]
  --only NAME   cases whose name is or begins with NAME; may be repeated
  --list        the names of the cases
  --runs N      measured runs of each case; default 5
  --scale S     of all numbers of rows and transactions, 0.001 to 10; default 1
  --quick       about a minute: the first cases, scale 0.04, one run, no warm-up
  --json        the result as JSON on standard output; what is being done goes to standard error
  --strict      ends with 1 where a bar is not met
  --peers       pglogical on PostgreSQL 15 too, where it is installed
`;

export interface BenchOptions {
  readonly only: readonly string[];
  readonly list: boolean;
  readonly runs: number;
  readonly warmUps: number;
  readonly scale: number;
  readonly quick: boolean;
  readonly json: boolean;
  readonly strict: boolean;
  readonly peers: boolean;
}

const inRange = (text: string, name: string, [min, max]: readonly [number, number]): number => {
  const value = Number(text);
  if (!(value >= min && value <= max)) throw new Error(`${name} must be from ${min} to ${max}, not ${text}`);
  return value;
};

/** @throws on a mistake in the arguments */
export const readOptions = (args: readonly string[]): BenchOptions => {
  const { values } = parseArgs({
    args: [...args],
    options: {
      only: { type: "string", multiple: true, default: [] },
      list: { type: "boolean", default: false },
      runs: { type: "string" },
      scale: { type: "string" },
      quick: { type: "boolean", default: false },
      json: { type: "boolean", default: false },
      strict: { type: "boolean", default: false },
      peers: { type: "boolean", default: false },
    },
  });
  const { quick } = values;
  const runs = Math.floor(inRange(values.runs ?? (quick ? "1" : "5"), "--runs", [1, 100]));
  return {
    only: values.only,
    list: values.list,
    runs,
    warmUps: quick ? 0 : 1,
    scale: inRange(values.scale ?? (quick ? "0.04" : "1"), "--scale", [0.001, 10]),
    quick,
    json: values.json,
    strict: values.strict,
    peers: values.peers,
  };
};
