// Plays 16-bit little-endian PCM while it arrives, chunk after chunk without a gap.
export class PcmPlayer {
  // `context` has the recording's sample rate: then no sample is resampled at a chunk's edge.
  // `lead` seconds are waited before the first sample, for chunks that come late.
  constructor(context, channels, lead = 0.1) {
    this.context = context;
    this.channels = channels;
    this.lead = lead;
    this.start = null; // the context's time of the first frame since the last gap
    this.frames = 0; // scheduled since then
    this.held = new Uint8Array(0); // a sample that a chunk's edge cut
    this.last = null; // the node that plays last
  }

  // Schedules a chunk (ArrayBuffer) of any size.
  play(chunk) {
    const bytes = new Uint8Array(this.held.length + chunk.byteLength);
    bytes.set(this.held);
    bytes.set(new Uint8Array(chunk), this.held.length);
    const frameSize = 2 * this.channels;
    const frames = Math.floor(bytes.length / frameSize);
    this.held = bytes.slice(frames * frameSize);
    if (frames > 0) this.#schedule(new DataView(bytes.buffer), frames);
  }

  #schedule(view, frames) {
    const { context, channels } = this;
    const buffer = context.createBuffer(channels, frames, context.sampleRate);
    for (let channel = 0; channel < channels; channel += 1) {
      const samples = buffer.getChannelData(channel);
      for (let frame = 0; frame < frames; frame += 1) {
        samples[frame] = view.getInt16(2 * (frame * channels + channel), true) / 32768;
      }
    }
    if (this.start === null || this.end < context.currentTime) {
      this.start = context.currentTime + this.lead;
      this.frames = 0;
    }
    this.last = context.createBufferSource();
    this.last.buffer = buffer;
    this.last.connect(context.destination);
    this.last.start(this.end);
    this.frames += frames;
  }

  // The context's time at which everything scheduled will have been played. Counted in frames:
  // a sum of durations would drift.
  get end() {
    return this.start + this.frames / this.context.sampleRate;
  }
}
