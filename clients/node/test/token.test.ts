// A bearer token from the network, by the client as it is built: what it lets its holder do, and its end.
//
// The environment says what life.test.ts needs of an https target but a certificate, and as VES_TEST_ADMIN where an
// administrator finds the same node, who makes the token and revokes it; without, there is nothing to test.

import assert from "node:assert/strict";
import { test } from "node:test";
import { AccessRole, Actor_Type, Code, connect, VesError } from "../src/index.js";

function env(name: string): string {
  const value = process.env[`VES_TEST_${name}`];
  assert.ok(value, `VES_TEST_${name} is not set`);
  return value;
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

test("a token", { skip: !process.env.VES_TEST_ADMIN }, async (t) => {
  const admin = connect(env("ADMIN"));
  t.after(() => admin.close());
  const project = "projects/node";
  const wanted = { holder: "in-node", role: AccessRole.ACCESS_ROLE_TENANT, projects: [project] };
  const { token: made, secret } = await admin.access.createToken({ token: wanted });
  const open = (token?: string) => {
    const client = connect(env("TARGET"), { tls: { ca: env("CA") }, token, retryFor: 20_000 });
    t.after(() => client.close());
    return client;
  };
  const client = open(secret);
  const { containers } = client;
  const ctId = Number(env("CT"));
  const name = `containers/${ctId}`;
  const timeout = 60_000;

  // It makes containers in its project, and sees no others.
  const spec = { template: `templates/${env("TEMPLATE")}`, volumes: [{ id: "root", sizeBytes: 128n << 20n }] };
  assert.equal((await fails(containers.createContainer({ container: { spec }, ctId }))).reason, "NOT_ALLOWED");
  const operation = await containers.createContainer({ container: { spec, project }, ctId });
  const { actor } = await client.wait(operation, { timeout });
  assert.deepEqual([actor?.type, actor?.id], [Actor_Type.TYPE_TOKEN, "in-node"]);
  const listed = (await containers.listContainers({})).containers.map((each) => each.name);
  assert.deepEqual(listed, [name]);

  // What it may not, and what there is not.
  const refused = await fails(client.access.listTokens({}));
  assert.deepEqual([refused.reason, refused.code], ["NOT_ALLOWED", Code.PERMISSION_DENIED]);
  assert.equal(refused.facts.principal, "token:in-node");
  const unknown = await fails(containers.getContainer({ name: "containers/2147483000" }));
  assert.equal(unknown.reason, "CONTAINER_UNKNOWN");
  await client.wait(await containers.deleteContainer({ name }), { timeout });

  // It ends where there is a connection and where there is none; and nobody comes without.
  await admin.access.revokeToken({ name: made?.name });
  for (const [each, why] of [[client, "unknown"], [open(secret), "unknown"], [open(), "none"]] as const) {
    const ended = await fails(each.containers.listContainers({}));
    assert.deepEqual([ended.reason, ended.facts.why, ended.code], ["UNAUTHENTICATED", why, Code.UNAUTHENTICATED]);
  }
});
