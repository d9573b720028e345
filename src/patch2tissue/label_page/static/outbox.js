// Answers on their way to the server. They are kept in the browser until the server has said that it has them, so that
// neither a server that is gone nor a closed tab loses any. Each has a key, so that sending one twice counts once.

const WAIT = 1000; // ms between attempts while the server does not answer

export class Outbox {
  // send(answer) resolves once the answer is kept, and rejects with .final set where trying again is of no use
  constructor(name, send, changed) {
    this.name = name;
    this.send = send;
    this.changed = changed;
    this.refused = null;
    this.failing = false;
    this.waiting = JSON.parse(localStorage.getItem(name) ?? "[]");
    this.running = null;
    this.flush();
  }

  get size() {
    return this.waiting.length;
  }

  put(answers) {
    this.waiting.push(...answers);
    this.#keep();
    this.flush();
  }

  // Take back an answer that is not under way yet; false if it is, or has arrived.
  take(key) {
    const place = this.waiting.findIndex((answer) => answer.key === key);
    if (place < 0 || (place === 0 && this.running)) return false;
    this.waiting.splice(place, 1);
    this.#keep();
    return true;
  }

  flush() {
    this.running ??= this.#run().finally(() => {
      this.running = null;
      this.changed();
    });
    return this.running;
  }

  async #run() {
    while (this.waiting.length) {
      const answer = this.waiting[0];
      try {
        await this.send(answer);
        this.failing = false;
      } catch (error) {
        if (!error.final) {
          this.failing = true;
          this.changed();
          await new Promise((resolve) => setTimeout(resolve, WAIT));
          continue;
        }
        this.refused = error.message;
      }
      this.waiting = this.waiting.filter((other) => other.key !== answer.key);
      this.#keep();
    }
  }

  #keep() {
    localStorage.setItem(this.name, JSON.stringify(this.waiting));
    this.changed();
  }
}
