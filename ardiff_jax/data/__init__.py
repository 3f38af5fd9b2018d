"""Text in, batches of token ids out: corpora, tokenizers, packing and the Grain pipeline."""
