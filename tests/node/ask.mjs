// One call of the OpenAI SDK for Node, as the tests' callers make it. Reads one JSON argument, prints one JSON line.
import OpenAI from "openai";

const { baseURL, apiKey, timeout, idempotencyKey, ...body } = JSON.parse(process.argv[2]);
const client = new OpenAI({ baseURL, apiKey, ...(timeout ? { timeout } : {}) });
const options = idempotencyKey ? { headers: { "Idempotency-Key": idempotencyKey } } : {};

function told(error) {
  const headers = error.headers ? Object.fromEntries(error.headers.entries()) : {};
  const said = error.error ?? {};
  return {
    kind: error.constructor.name,
    status: error.status ?? 0,
    code: error.code ?? "",
    message: said.message ?? "",
    headers,
  };
}

try {
  const reply = await client.chat.completions.create(body, options);
  let text = "";
  if (body.stream) {
    for await (const chunk of reply) text += chunk.choices[0]?.delta?.content ?? "";
  } else {
    text = reply.choices[0].message.content;
  }
  console.log(JSON.stringify({ text }));
} catch (error) {
  console.log(JSON.stringify({ error: told(error) }));
}
