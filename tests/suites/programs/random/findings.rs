//! What the random frames have found: each once more, by itself.
