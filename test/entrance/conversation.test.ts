import { describe, expect, test } from "vitest";
import { Conversation } from "../../src/entrance/conversation.ts";
import { message, query } from "./wire.ts";

const ready = (status = "I"): Buffer => message("Z", status);
const keyData = message("K", Buffer.from("0000002a01020304", "hex"));

const started = (): Conversation => {
  const conversation = new Conversation();
  conversation.fromServer(Buffer.concat([message("R", Buffer.alloc(4)), keyData, ready()]));
  return conversation;
};

describe("what can be told of a session", () => {
  test("it starts, with its key, and is idle", () => {
    const conversation = new Conversation();
    expect(conversation.state).toBe("starting");
    conversation.fromClient(message("p", "secret\0"));
    expect(conversation.state).toBe("starting");
    conversation.fromServer(keyData);
    expect([conversation.state, conversation.cancelKey]).toEqual(["starting", "0000002a01020304"]);
    conversation.fromServer(ready());
    expect(conversation.state).toBe("idle");
  });

  test("it is idle after the answer to its last question, not to its first", () => {
    const conversation = started();
    conversation.fromClient(Buffer.concat([query("SELECT 1"), query("SELECT pg_sleep(60)")]));
    expect(conversation.state).toBe("busy");
    conversation.fromServer(Buffer.concat([message("D"), message("C", "SELECT 1\0"), ready()]));
    expect(conversation.state).toBe("busy");
    conversation.fromServer(Buffer.concat([message("C"), ready()]));
    expect(conversation.state).toBe("idle");
  });

  test("it is busy with questions that were asked before it was ready", () => {
    const conversation = new Conversation();
    conversation.fromClient(query("SELECT 1"));
    conversation.fromServer(ready());
    expect(conversation.state).toBe("busy");
    conversation.fromServer(ready());
    expect(conversation.state).toBe("idle");
  });

  test("half of a question is under way, also when the answer to another comes", () => {
    const conversation = started();
    conversation.fromClient(Buffer.concat([query("SELECT 1"), query("INSERT").subarray(0, 7)]));
    conversation.fromServer(ready());
    expect(conversation.state).toBe("busy");
  });

  test("an open transaction is not idle, and notices at idle change nothing", () => {
    const conversation = started();
    conversation.fromClient(query("BEGIN"));
    conversation.fromServer(ready("T"));
    expect(conversation.state).toBe("inTransaction");
    conversation.fromClient(query("COMMIT"));
    conversation.fromServer(ready());
    conversation.fromServer(message("A", "notification"));
    expect(conversation.state).toBe("idle");
  });

  test("COPY by the extended protocol: the Sync in its middle is not answered", () => {
    const conversation = started();
    conversation.fromClient(Buffer.concat([message("P"), message("B"), message("E"), message("S")]));
    conversation.fromServer(message("G"));
    conversation.fromClient(Buffer.concat([message("d", "row"), message("c"), message("S")]));
    expect(conversation.state).toBe("busy");
    conversation.fromServer(Buffer.concat([message("C"), ready()]));
    expect(conversation.state).toBe("idle");
  });

  test("it has ended when the client says goodbye, or when an error is the last word", () => {
    const conversation = started();
    conversation.fromClient(query("SELECT 1/0"));
    conversation.fromServer(message("E", "C22012\0\0"));
    expect(conversation.state).toBe("ended");
    conversation.fromServer(ready());
    expect(conversation.state).toBe("idle");
    conversation.fromClient(message("X"));
    expect(conversation.state).toBe("ended");
  });

  test("in the middle of a row nothing can be said", () => {
    const conversation = started();
    expect(conversation.betweenMessages).toBe(true);
    conversation.fromServer(message("D", "a long row").subarray(0, 8));
    expect(conversation.betweenMessages).toBe(false);
  });
});
