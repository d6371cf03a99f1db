// For the tags of a schema.
import "@fastify/swagger";
import type { FastifyInstance } from "fastify";
import { type Static, Type } from "typebox";
import { describeOutage, maxLatencyMs, type Outage, type OutageSpec } from "../../regions/outages.ts";
import { maxOutageMs, type OutageRegistry, TooManyOutages } from "../outages/registry.ts";
import { Problem } from "../problems.ts";
import { problems } from "./row-route-schemas.ts";
import { tellOutcome } from "./security.ts";

export interface OutageRoutesOptions {
  readonly registry: OutageRegistry;
  /** As the configuration is now. */
  readonly allowed: () => boolean;
  readonly regions: () => readonly string[];
}

const Name = Type.String({ minLength: 1, maxLength: 63 });
const Id = Type.String({ pattern: "^[A-Za-z0-9-]{1,40}$", description: "the same at every agent concerned" });
const ForMs = Type.Optional(
  Type.Integer({
    minimum: 1,
    maximum: maxOutageMs,
    description: "milliseconds; without, until it is healed",
  }),
);

const OutageBody = Type.Union(
  [
    Type.Object({ id: Id, forMs: ForMs, kind: Type.Literal("region"), region: Name }),
    Type.Object({
      id: Id,
      forMs: ForMs,
      kind: Type.Literal("link"),
      from: Name,
      to: Name,
      oneWay: Type.Optional(Type.Boolean()),
    }),
    Type.Object({
      id: Id,
      forMs: ForMs,
      kind: Type.Literal("latency"),
      from: Name,
      to: Name,
      roundTripMs: Type.Number({ minimum: 0, maximum: maxLatencyMs }),
      jitterMs: Type.Optional(Type.Number({ minimum: 0, maximum: maxLatencyMs })),
    }),
  ],
  { title: "Outage" },
);

const when = Type.String({ format: "date-time" });
const OutageAnswer = Type.Object(
  {
    id: Type.String(),
    kind: Type.Enum(["region", "link", "latency"]),
    region: Type.Optional(Type.String()),
    from: Type.Optional(Type.String()),
    to: Type.Optional(Type.String()),
    oneWay: Type.Optional(Type.Boolean()),
    roundTripMs: Type.Optional(Type.Number()),
    jitterMs: Type.Optional(Type.Number()),
    startedAt: when,
    endsAt: Type.Union([when, Type.Null()], { description: "null: when it is healed." }),
  },
  { title: "Running outage" },
);
const Healed = Type.Object({ healed: Type.Integer({ description: "How many." }) });

const specOf = (body: Static<typeof OutageBody>): OutageSpec => {
  switch (body.kind) {
    case "region":
      return { kind: body.kind, region: body.region };
    case "link":
      return { kind: body.kind, from: body.from, to: body.to, oneWay: body.oneWay ?? false };
    case "latency":
      return {
        kind: body.kind,
        from: body.from,
        to: body.to,
        roundTripMs: body.roundTripMs,
        jitterMs: body.jitterMs ?? 0,
      };
  }
};

const namesIn = (spec: OutageSpec): readonly string[] =>
  spec.kind === "region" ? [spec.region] : [spec.from, spec.to];

/** How an outage looks from outside. */
export const outageView = (outage: Outage): Record<string, unknown> => ({
  id: outage.id,
  ...outage.spec,
  startedAt: new Date(outage.startedAtMs).toISOString(),
  endsAt: outage.endsAtMs === null ? null : new Date(outage.endsAtMs).toISOString(),
});

/** `/v1/admin/outages`: what this agent simulates. Off unless the configuration allows it. */
export const registerOutages = (app: FastifyInstance, options: OutageRoutesOptions): void => {
  const { registry } = options;
  const path = "/v1/admin/outages";
  const tags = ["admin"];
  const mustBeAllowed = (): void => {
    if (!options.allowed()) {
      throw new Problem(
        "outages-not-allowed",
        "the configuration does not allow simulated outages: set outages: {allowed: true}",
      );
    }
  };
  const running = Type.Object({ allowed: Type.Boolean(), outages: Type.Array(OutageAnswer) });
  app.get(
    path,
    {
      schema: {
        tags,
        summary: "The outages that this agent simulates",
        response: { 200: running, ...problems },
      },
    },
    () => ({ allowed: options.allowed(), outages: registry.list().map(outageView) }),
  );
  app.post(
    path,
    {
      schema: {
        tags,
        summary: "Begin an outage; one of that id is replaced",
        body: OutageBody,
        response: { 201: OutageAnswer, ...problems },
      },
    },
    (request, reply) => {
      mustBeAllowed();
      const body = request.body as Static<typeof OutageBody>;
      const spec = specOf(body);
      mustBeRegions(spec, options.regions());
      try {
        const forMs = body.forMs ?? null;
        const outage = registry.start({ id: body.id, spec, forMs });
        const until = forMs === null ? "until it is healed" : `for ${forMs} ms`;
        tellOutcome(request, `outage ${body.id} begun: ${describeOutage(spec)}, ${until}`);
        return reply.code(201).send(outageView(outage));
      } catch (error) {
        throw error instanceof TooManyOutages ? new Problem("too-large", error.message) : error;
      }
    },
  );
  app.delete<{ Params: { id: string } }>(
    `${path}/:id`,
    {
      schema: {
        tags,
        summary: "Heal an outage",
        params: Type.Object({ id: Id }),
        response: { 200: Healed, 404: Healed, ...problems },
      },
    },
    (request, reply) => {
      const { id } = request.params;
      const healed = registry.heal(id);
      tellOutcome(request, healed ? `outage ${id} healed` : `there is no outage ${id}`);
      return reply.code(healed ? 200 : 404).send({ healed: healed ? 1 : 0 });
    },
  );
  // Healing is always allowed: the configuration may have been changed since an outage began.
  app.delete(
    path,
    { schema: { tags, summary: "Heal all outages", response: { 200: Healed, ...problems } } },
    (request) => {
      const healed = registry.healAll();
      tellOutcome(request, `all outages healed: ${healed}`);
      return { healed };
    },
  );
};

const mustBeRegions = (spec: OutageSpec, regions: readonly string[]): void => {
  const names = namesIn(spec);
  const unknown = names.find((name) => !regions.includes(name));
  if (unknown !== undefined) {
    throw new Problem("body-invalid", `there is no region ${unknown}; there are ${regions.join(", ")}`);
  }
  if (names.length === 2 && names[0] === names[1]) {
    throw new Problem("body-invalid", "an outage of a link needs two regions");
  }
};
