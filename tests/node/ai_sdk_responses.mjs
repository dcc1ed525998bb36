// A talk by the AI SDK's own OpenAI provider, which speaks the Responses API. Reads one JSON argument, prints one JSON
// line: what each turn came to. `keeping` says who keeps the talk: `previous` and `conversation` leave it to the
// gateway, `history` sends it again each time.
import { createOpenAI } from "@ai-sdk/openai";
import { generateText, Output, RetryError, streamText } from "ai";
import { z } from "zod";

const warnings = [];
globalThis.AI_SDK_LOG_WARNINGS = (logged) => warnings.push(...logged.warnings);

const { baseURL, apiKey, model, prompts, keeping, stream, parse, conversation } = JSON.parse(process.argv[2]);
const openai = createOpenAI({ baseURL, apiKey });
const person = Output.object({ schema: z.object({ name: z.string(), age: z.number() }) });

let messages = [];
let previousResponseId;

async function turn(prompt) {
  messages.push({ role: "user", content: prompt });
  const options = { forceReasoning: true, reasoningEffort: "low", reasoningSummary: "auto" };
  if (keeping === "previous" && previousResponseId) options.previousResponseId = previousResponseId;
  if (keeping === "conversation") options.conversation = conversation;
  const asked = {
    model: openai(model),
    system: "Be brief.",
    messages: keeping === "history" ? messages : messages.slice(-1),
    providerOptions: { openai: options },
    ...(parse ? { output: person } : {}),
  };
  let deltas = "";
  const broken = [];
  const result = stream ? streamText({ ...asked, onError: ({ error }) => broken.push(error) }) : await generateText(asked);
  if (stream) for await (const piece of result.textStream) deltas += piece;
  if (broken.length) throw broken[0];
  previousResponseId = (await result.response).id;
  messages.push(...(await result.response).messages);
  return {
    text: parse ? await result.output : await result.text,
    deltas,
    reasoning: ((await result.reasoning) ?? []).map((part) => part.text),
    tools: (await result.toolCalls).length,
    finish: await result.finishReason,
    tokens: (await result.usage).totalTokens,
  };
}

const turns = [];
try {
  for (const prompt of prompts) turns.push(await turn(prompt));
  console.log(JSON.stringify({ turns, warnings }));
} catch (error) {
  const errors = RetryError.isInstance(error) ? error.errors : [error];
  const told = errors.map((one) => ({ status: one.statusCode ?? 0, message: one.message ?? JSON.stringify(one) }));
  console.log(JSON.stringify({ turns, errors: told, warnings }));
}
