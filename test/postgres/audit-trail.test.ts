import { Writable } from "node:stream";
import { pino } from "pino";
import { expect, test } from "vitest";
import { goodLine } from "../../regions/outages.ts";
import { systemClock } from "../../src/clock.ts";
import { SimulatedLine } from "../../src/outages/simulated-line.ts";
import { type AdminRequest, recordRequests } from "../../src/postgres/audit.ts";
import { AuditTrail, type AuditTrailOptions } from "../../src/postgres/audit-trail.ts";
import { createDatabase, eventually, type TestDatabase } from "../support/database.ts";
import { install } from "./install/installed.ts";

const request = (change: Partial<AdminRequest> = {}): AdminRequest => ({
  at: new Date("2026-06-01T12:00:00.123Z"),
  action: "DELETE /v1/admin/outages",
  detail: "all outages healed: 1",
  by: "ops",
  from: "192.0.2.7",
  requestId: "r1",
  ...change,
});

/** A trail that runs, what it says, and the line that it goes over. */
const start = (url: string, options: Partial<AuditTrailOptions> = {}) => {
  const said: { msg: string; audit?: AdminRequest; reason?: string }[] = [];
  const stream = new Writable({
    write(line: Buffer, _encoding, done) {
      said.push(JSON.parse(line.toString()) as (typeof said)[number]);
      done();
    },
  });
  const line = new SimulatedLine({ target: "moldova", random: () => 0.5 });
  const trail = new AuditTrail({
    url,
    line,
    region: "moldova",
    clock: systemClock(),
    random: () => 0.5,
    logger: pino(stream),
    ...options,
  });
  const ending = new AbortController();
  const running = trail.run(ending.signal);
  const end = async (): Promise<void> => {
    ending.abort();
    await running;
    await line[Symbol.asyncDispose]();
  };
  return { trail, line, said, end, [Symbol.asyncDispose]: end };
};

const cut = { ...goodLine, cutBy: "o1" };

const rows = (db: TestDatabase): Promise<Record<string, unknown>[]> =>
  db.query(`SELECT action, detail, by, host(address) AS address, logged_at IS NOT NULL AS logged
            FROM coregent.audit ORDER BY id`);

test("a request is a row: who, what, when, from where; and no agent puts it into its log again", async () => {
  await using db = await createDatabase();
  await install(db);
  await using audit = start(db.url);
  audit.trail.add(request());
  await eventually(async () => expect(await rows(db)).toHaveLength(1));
  audit.trail.add(request({ by: "jwt:a\0b", from: "fe80::1%eth0", requestId: "r2" }));
  audit.trail.add(request({ from: "nowhere", requestId: "r3" }));
  await eventually(async () =>
    expect(await rows(db)).toEqual([
      {
        action: "DELETE /v1/admin/outages",
        detail: "all outages healed: 1; request r1",
        by: "ops",
        address: "192.0.2.7",
        logged: true,
      },
      expect.objectContaining({ by: "jwt:a\uFFFDb", address: "fe80::1" }),
      expect.objectContaining({ by: "ops", address: null }),
    ]),
  );
  expect(await db.query("SELECT at FROM coregent.audit WHERE by = 'ops' ORDER BY id LIMIT 1")).toEqual([
    { at: request().at },
  ]);
  expect(audit.said).toEqual([]);
});

test("what cannot be written waits until the line is back, in order and once; what is too much is said", async () => {
  await using db = await createDatabase();
  await install(db);
  await using audit = start(db.url, { maxWaiting: 3 });
  audit.line.apply(cut);
  for (const requestId of ["r1", "r2", "r3", "r4"]) audit.trail.add(request({ requestId }));
  await eventually(() => audit.said.length === 2);
  expect(audit.said).toMatchObject([
    { msg: "an administrator's request is not in coregent.audit", audit: { requestId: "r4" } },
    { msg: "administrators' requests wait to be written to coregent.audit" },
  ]);
  // It was written, and the answer was lost.
  await recordRequests(await db.connect(), [request({ requestId: "r1" })]);
  audit.line.apply(goodLine);
  await eventually(async () =>
    expect((await rows(db)).map(({ detail }) => detail)).toEqual([
      "all outages healed: 1; request r1",
      "all outages healed: 1; request r2",
      "all outages healed: 1; request r3",
    ]),
  );
});

test("what still waits when the agent stops, and what never fits, is said", async () => {
  await using db = await createDatabase();
  const audit = start(db.url);
  audit.trail.add(request());
  await eventually(() => audit.said.length === 1);
  expect(audit.said[0]).toMatchObject({
    msg: "an administrator's request is not in coregent.audit",
    reason: 'relation "coregent.audit" does not exist',
  });
  audit.line.apply(cut);
  audit.trail.add(request({ requestId: "r2" }));
  await eventually(() => audit.said.length === 2);
  await audit.end();
  expect(audit.said[2]).toMatchObject({
    msg: "an administrator's request is not in coregent.audit",
    audit: { requestId: "r2" },
    reason: expect.stringContaining("simulated outage"),
  });
});
