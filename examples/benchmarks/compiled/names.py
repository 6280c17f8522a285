"""The names of what can be compiled. Nothing large is imported, so that ``--help`` is quick."""

NETS = ("resnet50", "vit_b16", "vgg11")
TRANSFORMERS = ("llama_1g", "llama_7g", "llama_70g", "llama_405g", "mixtral_47g")
TREES = (*NETS, *TRANSFORMERS)
OPTIMIZERS = ("sgdm", "adamw", "muon")
LAYOUTS = ("replicated", "fsdp", "outputs", "inputs", "both")
ARMS = ("none", "ours", "plain", "optax")
