// MQTT.js clients for the tests, driven by JSON lines: {id, peer, do, ...} comes in, {id, ok} or {id, error} answers it,
// {peer, message} and {peer, closed} tell what happens. Bytes are in base64. The argument is where MQTT.js is installed.

import { createRequire } from "node:module";
import { createInterface } from "node:readline";

const mqtt = createRequire(process.argv[2] + "/")("mqtt");
const clients = new Map();

const tell = (what) => process.stdout.write(JSON.stringify(what) + "\n");
const bytes = (text) => Buffer.from(text, "base64");

function sent({ correlationData, ...properties }) {
  return correlationData === undefined ? properties : { ...properties, correlationData: bytes(correlationData) };
}

function received({ topic, payload, qos, retain, properties = {} }) {
  const { correlationData, ...others } = properties;
  if (correlationData) others.correlationData = correlationData.toString("base64");
  return { topic, payload: payload.toString("base64"), qos, retain, properties: others };
}

const commands = {
  connect({ peer, url, options }) {
    if (options.will) {
      const { payload, properties } = options.will;
      options.will = { ...options.will, payload: bytes(payload), properties: properties && sent(properties) };
    }
    const client = mqtt.connect(url, { ...options, reconnectPeriod: 0 });
    clients.set(peer, client);
    client.on("message", (_topic, _payload, packet) => tell({ peer, message: received(packet) }));
    client.on("disconnect", (packet) => tell({ peer, closed: packet.reasonCode }));
    return new Promise((resolve, reject) => {
      client.once("connect", (packet) => resolve({ sessionPresent: packet.sessionPresent }));
      client.on("error", reject);
    });
  },

  // The callback's error is about all filters; what the SUBACK says of each is in its packet.
  subscribe({ peer, filters, options }) {
    return new Promise((resolve, reject) =>
      clients.get(peer).subscribe(filters, options, (error, _granted, packet) =>
        packet ? resolve(packet.granted) : reject(error),
      ),
    );
  },

  unsubscribe: ({ peer, filters }) => clients.get(peer).unsubscribeAsync(filters),

  async publish({ peer, topic, payload, options }) {
    try {
      await clients.get(peer).publishAsync(topic, bytes(payload), {
        ...options,
        properties: options.properties && sent(options.properties),
      });
    } catch (error) {
      if (!error.code) throw error;
      return error.code;
    }
    return 0;
  },

  leave: ({ peer }) => clients.get(peer).endAsync(),

  die: ({ peer }) => clients.get(peer).endAsync(true), // no DISCONNECT
};

for await (const line of createInterface({ input: process.stdin })) {
  const command = JSON.parse(line);
  commands[command.do](command).then(
    (ok) => tell({ id: command.id, ok: ok ?? null }),
    (error) => tell({ id: command.id, error: error.message, code: error.code ?? null }),
  );
}
process.exit();
