// A chat by the AI SDK with its provider for servers like OpenAI's. The steps are those of tests/clients_env/talking.py.
import { createOpenAICompatible } from "@ai-sdk/openai-compatible";
import { generateText, Output, streamText } from "ai";
import { Person, play } from "./talking.mjs";

class AiSdkTalk {
  messages = [];

  constructor({ baseURL, apiKey, model }) {
    const provider = createOpenAICompatible({
      name: "gateway",
      baseURL,
      apiKey,
      supportsStructuredOutputs: true,
    });
    this.model = provider(model);
  }

  async say(text) {
    const asked = this.#asked(text);
    const { text: answer, response } = await generateText({ model: this.model, messages: asked });
    this.messages = [...asked, ...response.messages];
    return answer;
  }

  async stream(text) {
    const asked = this.#asked(text);
    let failure;
    const result = streamText({
      model: this.model,
      messages: asked,
      onError: ({ error }) => (failure = error),
    });
    let seen = "";
    for await (const piece of result.textStream) seen += piece;
    if (failure) throw failure;
    this.messages = [...asked, ...(await result.response).messages];
    return seen;
  }

  async stop(text, after) {
    const asked = this.#asked(text);
    const leaving = new AbortController();
    const result = streamText({ model: this.model, messages: asked, abortSignal: leaving.signal });
    let seen = "";
    for await (const piece of result.textStream) {
      seen += piece;
      if (seen === after) leaving.abort();
    }
    this.messages = [...asked, { role: "assistant", content: seen }];
    return seen;
  }

  async parse(text) {
    const output = Output.object({ schema: Person });
    return (await generateText({ model: this.model, messages: this.#asked(text), output })).output;
  }

  back(turns) {
    this.messages.length = 2 * turns;
  }

  #asked(text) {
    return [...this.messages, { role: "user", content: text }];
  }
}

await play(AiSdkTalk);
