// One container's life on a real node, by the client as it is built.
//
// The environment says which node: VES_TEST_TARGET, and for https VES_TEST_CA, VES_TEST_CERT and VES_TEST_KEY;
// VES_TEST_TEMPLATE names a template, VES_TEST_CT an id, VES_TEST_ADDRESS an address that are free.

import assert from "node:assert/strict";
import { randomBytes, randomUUID } from "node:crypto";
import { mkdtempSync, rmSync } from "node:fs";
import net from "node:net";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { test } from "node:test";
import { Code, connect, Interface_Type, pages, StopContainerRequest_Mode, VesError, type Operation } from "../src/index.js";

function env(name: string): string {
  const value = process.env[`VES_TEST_${name}`];
  assert.ok(value, `VES_TEST_${name} is not set`);
  return value;
}

function open(target: string) {
  const tls = process.env.VES_TEST_CA ? { ca: env("CA"), cert: env("CERT"), key: env("KEY") } : undefined;
  return connect(target, { tls, retryFor: 20_000 });
}

/** A way to the server that can be cut. */
async function way(target: string) {
  const open = new Set<net.Socket>();
  let up = true;
  const server = net.createServer((here) => {
    if (!up) return here.destroy();
    const [, host, port] = /^https:\/\/(.*):(\d+)$/.exec(target) ?? [];
    const there = host ? net.connect(Number(port), host) : net.connect(target.replace("unix:", ""));
    for (const [from, to] of [[here, there], [there, here]] as const) {
      open.add(from.on("error", () => to.destroy()).on("close", () => to.destroy()));
      from.pipe(to);
    }
  });
  const dir = mkdtempSync(join(tmpdir(), "ves-"));
  const unix = target.startsWith("unix:");
  await new Promise<void>((done) => (unix ? server.listen(`${dir}/socket`, done) : server.listen(0, "127.0.0.1", done)));
  const cut = () => {
    up = false;
    open.forEach((socket) => socket.destroy());
    open.clear();
  };
  return {
    // The name stands in the server's certificate.
    target: unix ? `unix:${dir}/socket` : `https://localhost:${(server.address() as net.AddressInfo).port}`,
    cut,
    mend: () => (up = true),
    close: () => (cut(), server.close(), rmSync(dir, { recursive: true })),
  };
}

async function fails(what: Promise<unknown>): Promise<VesError> {
  try {
    await what;
  } catch (failed) {
    assert.ok(failed instanceof VesError, String(failed));
    return failed;
  }
  return assert.fail("it succeeds");
}

test("a container's life", async (t) => {
  const [target, ctId, address] = [env("TARGET"), Number(env("CT")), env("ADDRESS")];
  const client = open(target);
  t.after(() => client.close());
  const { containers } = client;
  const name = `containers/${ctId}`;
  const timeout = 60_000;

  // Create, and the same again by the same request id.
  const spec = {
    template: `templates/${env("TEMPLATE")}`,
    hostname: "life",
    interfaces: [{ id: "venet0", type: Interface_Type.TYPE_VENET, addresses: [address] }],
    volumes: [{ id: "root", sizeBytes: 128n << 20n }],
  };
  const create = { container: { spec, labels: { client: "node" } }, ctId, requestId: randomUUID() };
  const operation = await containers.createContainer(create);
  assert.equal((await containers.createContainer(create)).name, operation.name);
  assert.deepEqual((await client.wait(operation, { timeout })).targets, [name]);
  assert.equal((await containers.getContainer({ name })).labels.client, "node");

  // Start.
  const told: Operation[] = [];
  await client.wait(await containers.startContainer({ name }), { timeout, progress: (now) => told.push(now) });
  assert.ok(told.length > 0);
  const listed: string[] = [];
  for await (const page of pages(containers.listContainers, { pageSize: 1 })) {
    listed.push(...page.containers.map((each) => each.name));
  }
  assert.ok(listed.includes(name), String(listed));

  // A command with input that takes more than one message, error output and a status.
  const stdin = Buffer.from(randomBytes(200_000).toString("hex"));
  const ended = await client.exec(name, ["/bin/sh", "-c", "wc -c; echo no >&2; exit 7"], { stdin, timeout });
  assert.deepEqual([ended.code, ended.signal, String(ended.stderr)], [7, undefined, "no\n"]);
  assert.equal(Number(String(ended.stdout)), stdin.length);
  assert.equal((await client.exec(name, ["/bin/sh", "-c", "kill -9 $$"], { timeout })).signal, 9);

  // A watch goes on where it was, over a lost connection, without a reset.
  const road = await way(target);
  t.after(() => road.close());
  const far = open(road.target);
  t.after(() => far.close());
  const watch = far.watchContainers({ filter: 'labels.client="node"' }, { timeout });
  const known = new Set<string>();
  let [synced, changed] = [false, false];
  for await (const { event } of watch) {
    if (!synced) {
      if (event?.$case === "changed") known.add(event.value.name);
      if (event?.$case !== "synced") continue;
      synced = true;
      road.cut();
      const container = { name, description: "changed meanwhile" };
      await client.wait(await containers.updateContainer({ container, updateMask: ["description"] }), { timeout });
      road.mend();
    } else {
      assert.notEqual(event?.$case, "reset");
      changed = event?.$case === "changed" && event.value.description === "changed meanwhile";
      if (changed) break;
    }
  }
  assert.ok(known.has(name) && changed);
  // One that the server cannot go on from is told so.
  for await (const { event } of client.watchContainers({ resumeToken: "of another server" }, { timeout })) {
    assert.equal(event?.$case, "reset");
    break;
  }

  // Failures have a reason: of a call, of all fields that are wrong, of an operation.
  const unknown = await fails(containers.getContainer({ name: "containers/2147483000" }));
  assert.deepEqual([unknown.reason, unknown.facts.ct, unknown.code], ["CONTAINER_UNKNOWN", "2147483000", Code.NOT_FOUND]);
  const wrong = { ...spec, hostname: "no host name", interfaces: [{ ...spec.interfaces[0], addresses: ["no address"] }] };
  const refused = await fails(containers.createContainer({ container: { spec: wrong } }));
  assert.equal(refused.reason, "BAD_VALUE");
  const fields = refused.violations.map(({ field }) => field);
  assert.ok(fields.includes("container.spec.hostname"), String(fields));
  assert.ok(fields.includes("container.spec.interfaces[0].addresses[0]"), String(fields));
  const running = await fails(containers.deleteContainer({ name }).then((begun) => client.wait(begun, { timeout })));
  assert.equal(running.reason, "RUNNING");

  // Stop and delete.
  await client.wait(await containers.stopContainer({ name, mode: StopContainerRequest_Mode.MODE_KILL }), { timeout });
  await client.wait(await containers.deleteContainer({ name }), { timeout });
  assert.equal((await fails(containers.getContainer({ name }))).reason, "CONTAINER_UNKNOWN");
});
