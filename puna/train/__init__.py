"""One file a stage (pretrain, sft, rl/); shared: loop, data, loss, optim, checkpoint."""
