// What the OpenAI SDK for Node makes of the gateway: models, a call, a stream, its strict streaming helper, a stored
// completion. Reads one JSON argument, prints one JSON line.
import OpenAI from "openai";

const { baseURL, apiKey, model, prompt } = JSON.parse(process.argv[2]);
const client = new OpenAI({ baseURL, apiKey });
const messages = [{ role: "user", content: prompt }];

const models = [];
for await (const one of client.models.list()) models.push(one.id);

const reply = await client.chat.completions.create({ model, messages });
const stored = await client.chat.completions.retrieve(reply.id);

let streamed = "";
for await (const chunk of await client.chat.completions.create({ model, messages, stream: true })) {
  streamed += chunk.choices[0]?.delta?.content ?? "";
}

const helper = client.chat.completions.stream({ model, messages, stream_options: { include_usage: true } });
const final = await helper.finalChatCompletion();

const refused = await client.chat.completions.create({ model: "gpt-4o", messages }).catch((error) => error);

console.log(
  JSON.stringify({
    models,
    collected: reply.choices[0].message.content,
    stored: stored.choices[0].message.content,
    streamed,
    helped: final.choices[0].message.content,
    usage: final.usage,
    refused: { kind: refused.constructor.name, code: refused.code, param: refused.param },
  }),
);
