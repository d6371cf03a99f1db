import { once } from "node:events";
import { createConnection, type Socket } from "node:net";
import process from "node:process";
import { type Lane, runPlan } from "./drive.ts";
import type { LoadPlan } from "./plan.ts";
import { item, itemKey } from "./rows.ts";

/**
 * Load on an endpoint: HTTP/1.1 over bare sockets that are kept, requests made beforehand, answers looked at no further than
 * to see that they are right. A few microseconds each.
 */

const plan = JSON.parse(process.argv[2] ?? "{}") as LoadPlan;

const host = `Host: 127.0.0.1:${plan.port}\r\n`;
const rows = "/v1/tables/items/rows";

const requestOf = (n: number): Buffer => {
  if (plan.work === "read") return Buffer.from(`GET ${rows}/${itemKey(n)} HTTP/1.1\r\n${host}\r\n`);
  // Its key is made by the endpoint.
  const body = JSON.stringify({ ...item(n), id: undefined });
  const prefer = plan.work === "insertMinimal" ? "Prefer: return=minimal\r\n" : "";
  return Buffer.from(
    `POST ${rows} HTTP/1.1\r\n${host}${prefer}Content-Type: application/json\r\nContent-Length: ${body.length}\r\n\r\n${body}`,
  );
};

const status = plan.work === "read" ? "200" : "201";
const total = plan.warmUp + plan.count;
const requests = Array.from({ length: total }, (_, i) => requestOf(plan.from + i));
const marks = Array.from({ length: total }, (_, i) => {
  const { id, name } = item(plan.from + i);
  if (plan.work === "insertMinimal") return "";
  return plan.work === "read" ? `{"id":"${id}","name":"${name}",` : `"name":"${name}",`;
});

class HttpLane implements Lane {
  readonly #socket: Socket;
  #text = "";
  #mark = "";
  #done: ((wrong: string | null) => void) | null = null;

  constructor(socket: Socket) {
    this.#socket = socket;
    socket.setNoDelay(true).setEncoding("latin1");
    socket.on("data", (text: string) => this.#read(text));
    socket.on("close", () => this.#answer("the endpoint has closed the connection"));
    socket.on("error", () => undefined);
  }

  send(n: number, done: (wrong: string | null) => void): void {
    this.#done = done;
    this.#mark = marks[n - plan.from] ?? "";
    this.#socket.write(requests[n - plan.from] ?? "");
  }

  #read(chunk: string): void {
    const text = this.#text + chunk;
    this.#text = text;
    const head = text.indexOf("\r\n\r\n");
    if (head < 0) return;
    const length = Number(/\r\ncontent-length: (\d+)/i.exec(text)?.[1] ?? 0);
    if (text.length < head + 4 + length) return;
    this.#text = "";
    const at = text.indexOf(this.#mark, head + 4);
    const right = text.startsWith(status, 9) && at >= 0 && at < head + 60;
    this.#answer(right ? null : text.slice(0, 500));
  }

  #answer(wrong: string | null): void {
    const done = this.#done;
    this.#done = null;
    done?.(wrong);
  }
}

const sockets = Array.from({ length: plan.connections }, () =>
  createConnection({ host: "127.0.0.1", port: plan.port }),
);
await Promise.all(sockets.map((socket) => once(socket, "connect")));
await runPlan(
  plan,
  sockets.map((socket) => new HttpLane(socket)),
);
process.exit();
