import type { ClientBase } from "pg";
import { restampedCode } from "../postgres/install/statements.ts";
import { remembered } from "../remembered.ts";

const countOf = remembered((client: ClientBase) => {
  const count = { told: 0 };
  client.on("notice", ({ code }) => {
    if (code === restampedCode) count.told += 1;
  });
  return count;
});

/**
 * How often this session was told that rows were stamped once more after they were returned: a tombstone was at their keys, or
 * came there while an insert waited for a delete. Who compares the count before and after a statement knows of its rows.
 */
export const timesRestamped = (client: ClientBase): number => countOf(client).told;
