import { Link, type LinkParts } from "./link.ts";
import { SpareSession } from "./spare-session.ts";
import { newLinkStatus } from "./status.ts";
import type { AgentContext, RegionAddress } from "./wiring.ts";

const topologyCheckMs = 600;

interface Running {
  readonly peer: RegionAddress;
  readonly link: Link;
  readonly ending: AbortController;
  readonly done: Promise<void>;
}

type Shared = Pick<LinkParts, "sweeper" | "memory">;

/** One link for each peer of the topology, as it is now: peers that come get a link, those that go lose theirs. */
export class LinkSet {
  readonly #context: AgentContext;
  readonly #shared: Shared;
  readonly #signal: AbortSignal;
  readonly #spare: SpareSession;
  readonly #running = new Map<number, Running>();

  constructor(context: AgentContext, shared: Shared, signal: AbortSignal) {
    this.#context = context;
    this.#shared = shared;
    this.#signal = signal;
    this.#spare = new SpareSession(context);
  }

  /** Until the signal is aborted and every link has ended. */
  async run(): Promise<void> {
    while (!this.#signal.aborted) {
      await this.#follow(this.#context.topology().peers);
      this.#shared.memory.tidy(this.#context.clock.monotonic());
      await this.#context.clock.beat(topologyCheckMs, this.#signal);
    }
    await Promise.all([...this.#running.values()].map((running) => running.done));
  }

  /** A table's states are to be copied from this peer: its link looks at coregent.table_sync anew. */
  copyWanted(peerId: number): void {
    this.#running.get(peerId)?.link.copyWanted();
  }

  async #follow(peers: readonly RegionAddress[]): Promise<void> {
    for (const [id, running] of this.#running) {
      const peer = peers.find((candidate) => candidate.id === id);
      if (peer === undefined || peer.url !== running.peer.url || peer.name !== running.peer.name) {
        running.ending.abort();
        await running.done;
        this.#running.delete(id);
        this.#context.status.links.delete(running.peer.name);
      }
    }
    for (const peer of peers) {
      if (!this.#running.has(peer.id)) {
        this.#running.set(peer.id, this.#start(peer));
      }
    }
  }

  #start(peer: RegionAddress): Running {
    const { status, clock } = this.#context;
    const linkStatus = newLinkStatus(peer.name, peer.id, clock.now());
    status.links.set(peer.name, linkStatus);
    const ending = new AbortController();
    const parts = { ...this.#shared, peer, status: linkStatus, spare: this.#spare };
    const link = new Link(this.#context, parts);
    return { peer, link, ending, done: link.run(AbortSignal.any([this.#signal, ending.signal])) };
  }
}
