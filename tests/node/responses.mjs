// What the OpenAI SDK for Node makes of the Responses API: collected, streamed, its strict helper, parsed, fetched,
// resumed, in the background, cancelled, deleted, listed, and conversations. Reads one JSON argument, prints one JSON
// line.
import OpenAI from "openai";
import { zodTextFormat } from "openai/helpers/zod";
import { z } from "zod";

const { baseURL, apiKey, model } = JSON.parse(process.argv[2]);
const client = new OpenAI({ baseURL, apiKey, maxRetries: 0 });
const said = {};

async function all(iterable) {
  const items = [];
  for await (const item of iterable) items.push(item);
  return items;
}

const first = await client.responses.create({ model, input: "one" });
const second = await client.responses.create({ model, input: "two", previous_response_id: first.id });
said.chained = [first.output_text, second.output_text];
said.usage = second.usage.total_tokens;
said.stored = (await client.responses.retrieve(second.id)).output_text;

const events = await all(await client.responses.create({ model, input: "three", stream: true }));
said.numbers = events.map((event) => event.sequence_number);
said.deltas = events.filter((event) => event.type === "response.output_text.delta").map((event) => event.delta).join("");
const resumed = await client.responses.retrieve(events[0].response.id, { stream: true, starting_after: 3 });
said.resumed = (await all(resumed)).map((event) => event.sequence_number);

const helper = client.responses.stream({ model, input: "look" });
const types = new Set();
for await (const event of helper) types.add(event.type);
const final = await helper.finalResponse();
said.helped = { types: [...types], text: final.output_text, items: final.output.map((item) => item.type) };
const helpedAgain = client.responses.stream({ response_id: final.id, starting_after: 1 });
said.helpedAgain = (await helpedAgain.finalResponse()).output_text;

const format = zodTextFormat(z.object({ name: z.string(), age: z.number() }), "person");
said.parsed = (await client.responses.parse({ model, input: "parse", text: { format } })).output_parsed;

let task = await client.responses.create({ model, input: "four", background: true });
said.began = task.status;
while (["queued", "in_progress"].includes(task.status)) {
  await new Promise((resolve) => setTimeout(resolve, 50));
  task = await client.responses.retrieve(task.id);
}
said.background = [task.status, task.output_text];

const hanging = await client.responses.create({ model, input: "hang", background: true });
said.cancelled = (await client.responses.cancel(hanging.id)).status;

said.items = (await all(client.responses.inputItems.list(second.id))).map((item) => item.content[0].text);
await client.responses.delete(second.id);
said.deleted = (await client.responses.retrieve(second.id).catch((error) => error)).code;

const made = await client.conversations.create({ metadata: { topic: "numbers" } });
await client.conversations.update(made.id, { metadata: { topic: "letters" } });
for (const input of ["a", "b"]) await client.responses.create({ model, input, conversation: made.id });
said.topic = (await client.conversations.retrieve(made.id)).metadata.topic;
const listed = await all(client.conversations.items.list(made.id, { order: "asc", limit: 2 }));
said.conversation = listed.map((item) => item.content[0].text);
said.item = (await client.conversations.items.retrieve(listed[1].id, { conversation_id: made.id })).content[0].text;
said.conversationDeleted = (await client.conversations.delete(made.id)).deleted;

const refused = await client.responses
  .create({ model, input: "x", previous_response_id: "resp_00000000000000000000000000000000" })
  .catch((error) => error);
said.refused = { kind: refused.constructor.name, code: refused.code, param: refused.param };

console.log(JSON.stringify(said));
