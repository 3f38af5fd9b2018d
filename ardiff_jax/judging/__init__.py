"""Generated texts, as an autoregressive model and other measures find them."""
