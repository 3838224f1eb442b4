"""Does a spec agree with samples of the training data? The likely mistake is named."""
