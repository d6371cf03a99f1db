import type { Region, Topology } from "../../regions/topology.ts";
import type { Candidate, CandidateColumn, ColumnSequence } from "./catalog.ts";
import type { ClockFacts } from "./check-facts.ts";
import { critical, fine, warning, type Finding, type LocalFinding } from "./check-finding.ts";
import type { Installation } from "./check-installed.ts";
import { isReplicable } from "./check-table.ts";
import { identifier, qualified } from "./identifiers.ts";

/** What is known of one region that could be reached. */
export interface RegionFacts extends Omit<Installation, "installed"> {
  readonly region: Region;
  readonly installed: Installation["installed"] | null;
  readonly clock: ClockFacts;
}

/** Clocks may differ by this much, in microseconds, before it is worth a warning. */
export const maxClockSkewUs = 1_000_000;

/** What only shows when the regions are compared. A function of the facts alone. */
export const clusterFindings = (regions: readonly RegionFacts[], topology: Topology): Finding[] => [
  ...databaseFindings(regions),
  ...clockFindings(regions),
  ...definitionFindings(regions, topology),
  ...sequenceFindings(regions, topology),
];

const at = (facts: RegionFacts, finding: LocalFinding): Finding => ({
  region: facts.region.name,
  ...finding,
});

/** Two regions in one database, or one cloned from another's disk (FAULTS 13). */
const databaseFindings = (regions: readonly RegionFacts[]): Finding[] =>
  regions.flatMap((facts, index) =>
    regions.slice(0, index).flatMap((other) => {
      const { server, installed } = facts;
      if (
        server.system === other.server.system &&
        server.databaseOid === other.server.databaseOid &&
        server.database === other.server.database
      ) {
        return [
          at(
            facts,
            critical(
              "same_database",
              server.database,
              `is the same database as that of ${other.region.name}, or a copy of its server`,
              "Give each region a database of its own. A copy of a server's disk: make a new server with initdb, and join it.",
            ),
          ),
        ];
      }
      const mine = installed?.local?.incarnation;
      if (mine === undefined || mine !== other.installed?.local?.incarnation) return [];
      return [
        at(
          facts,
          critical(
            "cloned",
            server.database,
            `was copied from the database of ${other.region.name}, Coregent's own schema included`,
            "Remove the copy's: DROP SCHEMA coregent CASCADE; then: coregent init",
          ),
        ),
      ];
    }),
  );

const median = (values: readonly number[]): number => {
  const sorted = values.toSorted((a, b) => a - b);
  const middle = sorted.length >> 1;
  const upper = sorted[middle] ?? 0;
  return sorted.length % 2 === 1 ? upper : (upper + (sorted[middle - 1] ?? upper)) / 2;
};

const clockFindings = (regions: readonly RegionFacts[]): Finding[] => {
  const middle = median(regions.map((facts) => facts.clock.offsetUs));
  const skewed = regions.some((a) =>
    regions.some(
      (b) =>
        Math.abs(a.clock.offsetUs - b.clock.offsetUs) - a.clock.uncertaintyUs - b.clock.uncertaintyUs >
        maxClockSkewUs,
    ),
  );
  if (!skewed)
    return regions.map((facts) => at(facts, fine("clock", "clock", "agrees with the other regions'")));
  return regions
    .filter((facts) => Math.abs(facts.clock.offsetUs - middle) > maxClockSkewUs / 2)
    .map((facts) => {
      const seconds = ((facts.clock.offsetUs - middle) / 1_000_000).toFixed(1);
      return at(
        facts,
        warning(
          "clock_skew",
          "clock",
          `the server's clock is ${seconds} s off the others': of two unconnected writes the wrong one may count as the later`,
          "Let the server's clock be set by NTP (chronyc tracking, timedatectl timesync-status).",
        ),
      );
    });
};

const byRegion = (regions: readonly RegionFacts[], name: string): [RegionFacts, Candidate][] =>
  regions.flatMap((facts) => {
    const candidate = facts.candidates.find((other) => other.name === name);
    return candidate === undefined ? [] : [[facts, candidate] as [RegionFacts, Candidate]];
  });

const tableNames = (regions: readonly RegionFacts[]): string[] => [
  ...new Set(
    regions.flatMap((facts) =>
      facts.candidates
        .filter((candidate) => candidate.schema !== "coregent" && isReplicable(candidate))
        .map((candidate) => candidate.name),
    ),
  ),
];

const definitionFindings = (regions: readonly RegionFacts[], topology: Topology): Finding[] => {
  const found: Finding[] = [];
  const names = tableNames(regions);
  for (const name of names) {
    const there = byRegion(regions, name);
    const first = there[0];
    if (first === undefined) continue;
    for (const facts of regions) {
      const own = there.find(([region]) => region === facts);
      if (own === undefined) {
        found.push(at(facts, tableMissing(name, first[0].region.name)));
      } else if (own !== first) {
        found.push(...compare(first, own).map((finding) => at(facts, finding)));
      }
    }
  }
  const missing = topology.tables.filter((table) => !names.includes(table.name));
  for (const table of missing) {
    found.push(
      ...regions
        .filter((facts) => !facts.candidates.some((candidate) => candidate.name === table.name))
        .map((facts) =>
          at(
            facts,
            critical(
              "table_missing",
              table.name,
              "is configured and is in no region",
              "Create the table, or correct the configuration.",
            ),
          ),
        ),
    );
  }
  return found;
};

const tableMissing = (name: string, elsewhere: string): LocalFinding =>
  warning(
    "table_missing",
    name,
    `is in ${elsewhere}, and not here`,
    "Create the table here too (pg_dump --schema-only --table ...), then: coregent init",
  );

const ourColumn = (column: CandidateColumn): boolean =>
  /^cg_(base|version|prev|seen|merge)$/.test(column.name);

const compare = (
  [elsewhere, reference]: readonly [RegionFacts, Candidate],
  [, candidate]: readonly [RegionFacts, Candidate],
): LocalFinding[] => {
  const found: LocalFinding[] = [];
  const table = qualified(candidate.schema, candidate.table);
  const other = elsewhere.region.name;
  const keyOf = (of: Candidate): string =>
    of.primaryKey?.columns.map((column) => column.name).join(", ") ?? "";
  if (keyOf(reference) !== keyOf(candidate)) {
    found.push(
      critical(
        "key_differs",
        candidate.name,
        `its key is (${keyOf(candidate)}) here and (${keyOf(reference)}) in ${other}`,
        "Give the table the same primary key in every region.",
      ),
    );
  }
  for (const column of reference.columns.filter((one) => !ourColumn(one))) {
    const own = candidate.columns.find((one) => one.name === column.name);
    const object = `${candidate.name}.${column.name}`;
    if (own === undefined) {
      found.push(
        warning(
          "column_missing",
          object,
          `is in ${other}, and not here; the table's changes wait until it is`,
          `ALTER TABLE ${table} ADD COLUMN ${literalColumn(column)};`,
        ),
      );
    } else if (own.type !== column.type) {
      found.push(
        critical(
          "type_differs",
          object,
          `is ${own.type} here and ${column.type} in ${other}`,
          `ALTER TABLE ${table} ALTER COLUMN ${literalName(column)} TYPE ${column.type};`,
        ),
      );
    } else if (own.notNull !== column.notNull || own.generated !== column.generated) {
      found.push(
        warning(
          "column_differs",
          object,
          `${own.notNull === column.notNull ? "is generated" : "is NOT NULL"} in one of this region and ${other} only: rows may not fit`,
          "Define the column alike in every region.",
        ),
      );
    }
  }
  const known = new Set(reference.columns.map((column) => column.name));
  for (const column of candidate.columns.filter((one) => !ourColumn(one) && !known.has(one.name))) {
    found.push(
      warning(
        "column_extra",
        `${candidate.name}.${column.name}`,
        `is here, and not in ${other}`,
        `Add it in ${other} too: ALTER TABLE ${table} ADD COLUMN ${literalColumn(column)};`,
      ),
    );
  }
  return found;
};

const literalName = (column: CandidateColumn): string => identifier(column.name);
const literalColumn = (column: CandidateColumn): string =>
  `${literalName(column)} ${column.type}${column.default === null ? "" : ` DEFAULT ${column.default}`}`;

const gcd = (a: bigint, b: bigint): bigint => (b === 0n ? (a < 0n ? -a : a) : gcd(b, a % b));
const modulo = (a: bigint, n: bigint): bigint => ((a % n) + n) % n;

/** Whether two sequences, each going on from where it is, can ever give the same value. */
export const sequencesCollide = (a: ColumnSequence, b: ColumnSequence): boolean => {
  const step = gcd(BigInt(a.increment), BigInt(b.increment));
  return modulo(BigInt(a.position), step) === modulo(BigInt(b.position), step);
};

/** The step at which regions interleave: above every id there is, with room for regions to come. */
export const interleavingStep = (topology: Topology): number => {
  const highest = Math.max(...topology.regions.map((region) => region.id));
  return 2 ** Math.max(4, Math.ceil(Math.log2(highest + 1)));
};

/** The sequences of key columns, with the columns. */
const keySequences = (candidate: Candidate): [CandidateColumn, ColumnSequence][] => {
  const key = candidate.primaryKey?.columns.map((column) => column.name) ?? [];
  return candidate.columns.flatMap((column) =>
    key.includes(column.name) && column.sequence !== null
      ? [[column, column.sequence] as [CandidateColumn, ColumnSequence]]
      : [],
  );
};

const collision = (options: {
  readonly candidate: Candidate;
  readonly column: CandidateColumn;
  readonly sequence: ColumnSequence;
  readonly region: Region;
  readonly topology: Topology;
}): LocalFinding => {
  const { candidate, column, sequence, region, topology } = options;
  const step = BigInt(interleavingStep(topology));
  const position = BigInt(sequence.position);
  let start = position - modulo(position, step) + BigInt(region.id);
  if (start <= position) start += step;
  const remedy =
    `ALTER SEQUENCE ${qualified(sequence.schema, sequence.name)} INCREMENT BY ${step} START WITH ${start} RESTART;` +
    ` -- in each region, or make the key a uuid or text with DEFAULT coregent.ulid_uuid() or coregent.ulid()`;
  // With other columns in the key, two regions may be kept apart by those.
  const say = candidate.primaryKey?.columns.length === 1 ? critical : warning;
  return say(
    "colliding_sequence",
    `${candidate.name}.${column.name}`,
    `the sequence ${sequence.schema}.${sequence.name} gives keys that other regions' sequences give too`,
    remedy,
  );
};

/** The part that shows in one region alone: steps smaller than the number of regions. */
export const localSequenceFindings = (
  candidate: Candidate,
  region: Region,
  topology: Topology,
): LocalFinding[] =>
  keySequences(candidate).flatMap(([column, sequence]) => {
    const increment = BigInt(sequence.increment);
    const enough = (increment < 0n ? -increment : increment) >= BigInt(topology.regions.length);
    return enough ? [] : [collision({ candidate, column, sequence, region, topology })];
  });

const sequenceFindings = (regions: readonly RegionFacts[], topology: Topology): Finding[] =>
  tableNames(regions).flatMap((name) => {
    const there = byRegion(regions, name);
    return there.flatMap(([facts, candidate]) =>
      keySequences(candidate).flatMap(([column, sequence]) => {
        const collides = there.some(
          ([other, theirs]) =>
            other !== facts &&
            keySequences(theirs).some(
              ([otherColumn, otherSequence]) =>
                otherColumn.name === column.name && sequencesCollide(sequence, otherSequence),
            ),
        );
        if (!collides) return [];
        return [at(facts, collision({ candidate, column, sequence, region: facts.region, topology }))];
      }),
    );
  });

/** Notes on foreign keys: they are not checked on merge. */
export const foreignKeyFindings = (candidate: Candidate, candidates: readonly Candidate[]): LocalFinding[] =>
  candidate.foreignKeys.map((key) => {
    const object = `${candidate.name} (${key.name})`;
    const target = `${key.refSchema}.${key.refTable}`;
    const replicated = candidates.some((other) => other.name === target && isReplicable(other));
    return replicated
      ? fine("foreign_key", object, `is not checked on merge; verify reports rows without their ${target}`)
      : warning(
          "foreign_key_outside",
          object,
          `refers to ${target}, which is not replicated`,
          `Give it a primary key and let the configuration name its schema; or keep its rows alike in all regions by hand`,
        );
  });
