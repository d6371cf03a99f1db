import { afterAll, afterEach, beforeAll, expect, test } from "vitest";
import type { Problem } from "../../src/problems.ts";
import type { RegionalWriter } from "../../src/write/writer.ts";
import { healths, slowCommits, WritingRegions } from "./masters-fixture.ts";
import { codeOf, insert, request, rowsOf } from "./writer-requests.ts";

/** Single new rows under keys that were made for them: sent together with their COMMIT, and again where the answer is lost. */

let all: WritingRegions;

beforeAll(async () => {
  all = await WritingRegions.create();
  await all.regions.agents();
});
afterEach(() => all.calm());
afterAll(() => all[Symbol.asyncDispose]());

const made = (id: string) => {
  const row = { id, body: "new", home_region: "b" };
  return request([{ ...insert("note", row), keysMade: true } as ReturnType<typeof insert>]);
};

/** The sessions of this writer with b know the statement. */
const prepared = async (id: string): Promise<Awaited<ReturnType<WritingRegions["writer"]>>> => {
  const found = await all.writer("a");
  for (const n of [1, 2]) await found.writer.write(made(`${id} before ${n}`));
  return found;
};

/** Writes while the answer is lost. */
const losing = async (
  writer: RegionalWriter,
  id: string,
  lose: () => void,
): Promise<Awaited<ReturnType<RegionalWriter["write"]>>> => {
  await using slow = await slowCommits(all, "INSERT");
  const writing = writer.write(made(id));
  writing.catch(() => undefined);
  await slow.committing();
  lose();
  return await writing;
};

const rowsIn = (region: string, id: string) =>
  all.regions.db(region).query("SELECT id, body FROM public.note WHERE id = $1", [id]);

test("is told by its key where the master is there again", async () => {
  const { writer } = await prepared("n1");
  const outcome = await losing(writer, "n1", () => {
    all.line("b").cut({ mode: "reset" });
    all.line("b").heal();
  });
  expect(outcome).toMatchObject({ region: "b", takeover: false, replayed: false, onceOnly: null });
  expect(rowsOf(outcome.results)).toEqual([{ id: "n1", body: "new", home_region: "b" }]);
  expect(outcome.results[0]?.created).toEqual([true]);
  const [row] = await all.regions.db("b").query("SELECT cg_version AS v FROM public.note WHERE id = 'n1'");
  expect(BigInt(String(row?.["v"]))).toBe(outcome.version);
});

test("goes on at another master where its own stays away, and is one row in the end", async () => {
  const { writer, masters } = await prepared("n2");
  const outcome = await losing(writer, "n2", () => all.line("b").cut({ mode: "reset" }));
  expect(outcome).toMatchObject({ region: "a", takeover: true });
  all.line("b").heal();
  await healths(masters, { b: "healthy" });
  await all.regions.equal();
  for (const region of all.regions.names)
    expect(await rowsIn(region, "n2")).toEqual([{ id: "n2", body: "new" }]);
});

test("is not known to be done or not where no master can be reached any more", async () => {
  const { writer } = await prepared("n3");
  const error = await losing(writer, "n3", () => {
    for (const region of all.regions.names) all.line(region).cut({ mode: "reset" });
  }).catch((reason: unknown) => reason);
  expect([codeOf(error), (error as Problem).retryable]).toEqual(["outcome-unknown", false]);
});

test("what PostgreSQL refuses with the COMMIT is refused, and a row that is there is not taken for the new one", async () => {
  const { writer } = await prepared("n4");
  const db = all.regions.db("b");
  await db.query("ALTER TABLE public.note ADD CONSTRAINT fit CHECK (body <> 'unfit')");
  try {
    const unfit = { ...insert("note", { id: "n4", body: "unfit", home_region: "b" }), keysMade: true };
    const refusal = await writer
      .write(request([unfit as ReturnType<typeof insert>]))
      .catch((reason: unknown) => reason);
    expect(codeOf(refusal)).toBe("check-violation");
    await writer.write(made("n4"));
    expect(codeOf(await writer.write(made("n4")).catch((reason: unknown) => reason))).toBe(
      "unique-violation",
    );
  } finally {
    await db.query("ALTER TABLE public.note DROP CONSTRAINT fit");
  }
});

test("a token's version is outranked", async () => {
  const { writer } = await prepared("n5");
  const ahead = ((BigInt(Date.now() + 3_600_000) * 1000n) << 10n) + 3n;
  const written = await writer.write({ ...made("n5"), session: { positions: [], version: ahead } });
  expect(written.version).toBeGreaterThan(ahead);
  expect((await writer.write(made("n5 next"))).version).toBeGreaterThan(0n);
});

test("a table that was altered meanwhile is answered as it is now, and the row inserted once", async () => {
  const { writer } = await prepared("n6");
  const alter = (type: string) =>
    all.regions.db("b").query(`ALTER TABLE public.note ALTER COLUMN body TYPE ${type}`);
  await alter("varchar(40)");
  try {
    const { results } = await writer.write(made("n6"));
    expect(JSON.parse(results[0]?.rows[0] ?? "null")).toMatchObject({ id: "n6", body: "new" });
    expect(await rowsIn("b", "n6")).toHaveLength(1);
  } finally {
    await alter("text");
  }
});
