"""Fields every config has, at the papers' size; the method files change what they must."""

from ml_collections import ConfigDict

from ardiff_jax.models import presets


def get_base() -> ConfigDict:
  """Returns the shared config: 12 layers of 768 over 1,024 GPT-2 tokens."""
  c = ConfigDict()
  c.seed = 0
  c.init_from = ''  # work directory of another run, whose parameters to start from

  c.data = ConfigDict()
  c.data.source = 'builtin'  # 'builtin', a file, a folder, 'a.txt,b.txt', or 'tfds:NAME'
  c.data.valid_source = ''  # as source; '' holds out the last valid_fraction
  c.data.valid_fraction = 0.05
  c.data.tfds_dir = ''  # where prepared TensorFlow Datasets lie; '' is the library's default
  c.data.tfds_split = 'train'
  c.data.tfds_valid_split = ''
  c.data.tfds_text_key = 'text'
  c.data.length = 1024  # tokens in a sequence
  c.data.guided = False  # whether to write behind a guidance and a prompt, and from a draft

  c.tokenizer = ConfigDict()
  c.tokenizer.kind = 'gpt2'  # 'byte', 'sentencepiece' or 'gpt2'
  c.tokenizer.path = ''  # sentencepiece: a .model ('' trains one); gpt2: the vocabulary's folder
  c.tokenizer.vocab_size = 2048  # of a sentencepiece model trained here

  c.noise = ConfigDict()
  c.noise.name = 'absorbing'  # 'absorbing', 'uniform', 'gamma_hybrid' or 'epsilon_hybrid'
  c.noise.epsilon = 0.01  # share of wrong tokens, epsilon_hybrid only
  c.noise.gamma = 0.01  # share of the rate that resamples, gamma_hybrid only
  c.noise.delta = 0.0  # survival just before t = 1
  c.noise.clock = 'log_linear'  # or 'cosine'

  c.hyperschedule = ConfigDict()
  # 'autoregressive', 'flat', 'block', 'slide', 'hybrid', 'ar_diffusion', 'shuffled' or 'strided'
  c.hyperschedule.name = 'flat'
  c.hyperschedule.width = 16  # block, slide, hybrid, shuffled and strided
  c.hyperschedule.num_levels = 1024  # all but autoregressive, shuffled and strided
  c.hyperschedule.seed = 0  # of shuffled

  c.denoiser = ConfigDict()
  c.denoiser.alignment = 'aligned'  # 'aligned' or 'shifted'
  c.denoiser.context = 'block_causal'  # 'causal', 'block_causal' or 'full'
  c.denoiser.window = 'full'  # 'full', 'causal', 'none' or, shifted, 'causal_next'
  c.denoiser.separate_documents = False  # whether tokens see their own document's context only
  c.denoiser.context_length = 0  # how many positions back tokens see context; 0 is no limit

  c.model = ConfigDict(presets.SMALL)
  c.model.num_kv_heads = 0  # 0: as many as num_heads
  c.model.mlp_dim = 0  # 0: 4 x model_dim
  c.model.norm = 'layernorm'  # or 'rmsnorm'
  c.model.activation = 'gelu'  # or 'swiglu'
  c.model.biases = 'none'  # 'ddit' (MLP, conditioning, head) or 'all' (GPT-2's)
  c.model.positions = 'rotary'  # or 'learned'
  c.model.max_positions = 0  # of learned positions
  c.model.mask_positions = 0  # positions at which masks have vectors of their own
  c.model.conditioning = 'none'  # 'adaln', or 'adaln_constant': always told noise level 0
  c.model.condition_dim = 0  # 0: model_dim / 4
  c.model.final_conditioning = True  # whether the last norm is conditioned too
  c.model.mask_mixing = 0.0  # gamma of the embedding mixed with the mask's by noise level
  c.model.tie_embedding = True
  c.model.dropout = 0.1
  c.model.remat = 'full'  # computed again going back; 'dots': but for products; or 'none'
  c.model.rope_base = 10_000.0
  c.model.attention = 'auto'  # kernels: the device's fastest, 'xla' or 'splash' (TPU)
  c.model.dtype = 'bfloat16'  # of the computation; or 'float32'

  c.gate = ConfigDict()  # which tokens a revision overwrites; trained by overwrite_gate
  c.gate.kind = ''  # '' for none, 'linear' or 'learned'
  c.gate.width = 0  # of a learned one; 0: max(64, model_dim / 2)
  c.gate.signals = ('entropy', 'margin', 'change', 'surprise')  # those it sees
  c.gate.standardise = True  # over the positions of a text; else in fixed units

  c.objective = ConfigDict()
  # 'weighted_cross_entropy', 'next_token', 'score_entropy', 'any_order', 'adaptation',
  # 'overwrite_gate' or 'latent_diffusion'
  c.objective.name = 'weighted_cross_entropy'
  # of weighted_cross_entropy and score_entropy:
  c.objective.doubled = False  # train all positions in a pass; block, slide and hybrid only
  # of weighted_cross_entropy:
  c.objective.visible_weight = 1.0  # lambda of visible tokens, epsilon_hybrid only
  c.objective.weighting = 'annealed'  # or 'importance'
  c.objective.continuous_time = True
  c.objective.time_range = (0.0, 1.0)  # narrower leaves out times of high variance, in training
  # of score_entropy:
  c.objective.head = 'x0'  # or 'score'
  c.objective.form = 'exact'  # or 'released', the public γ-hybrid code's: no bound
  c.objective.settled_weight = 0.0  # of the cross-entropy of settled tokens
  # of any_order: from which share of the updates on, groups of how many at most, share of random
  # orders, greatest share of positions that are context
  c.objective.stages = ((0.0, 1, 0.0, 0.0),)
  # of adaptation, in updates:
  c.objective.causal_steps = 0  # of next-token prediction first
  c.objective.anneal_steps = 0  # until the window is full
  # of overwrite_gate:
  c.objective.loss = 'bce'  # or 'marginal', 'relaxed', 'straight_through'
  c.objective.target = 'canvas_wrong'  # of bce; or 'pred_wrong', 'benefit'
  c.objective.corrupted = 0.3  # greatest share of tokens replaced
  c.objective.looks = 2  # in a row, overwritten in between as config.revision says
  c.objective.sparsity = 0.0  # weight of the edits
  c.objective.variation = 0.0  # weight of the change of doubt between looks
  c.objective.relaxation = 1.0  # temperature of relaxed and straight_through
  c.objective.denoising_weight = 0.0  # of the denoiser's own loss; 0 freezes it
  # of latent_diffusion:
  c.objective.latent_dim = 32  # width of a token's vector
  c.objective.most_weight = 5.0  # of the error of an estimate, by its signal-to-noise ratio

  c.train = ConfigDict()
  c.train.steps = 1_000_000
  c.train.batch_size = 512  # sequences, over all devices and microbatches
  c.train.accumulate = 1  # microbatches
  c.train.learning_rate = 3e-4
  c.train.warmup_steps = 2500
  c.train.adam_b2 = 0.999
  c.train.weight_decay = 0.0
  c.train.clip_norm = 1.0
  c.train.ema_decay = 0.9999
  c.train.log_every = 100
  c.train.eval_every = 10_000
  c.train.checkpoint_every = 10_000
  c.train.save_in_background = True  # a kill during a save then costs up to two intervals, else one
  c.train.keep = 2  # newest checkpoints kept, besides the best
  c.train.keep_every = 0  # and those of steps that are multiples of this; 0 for none
  c.train.peak_flops = 0.0  # FLOP/s of a device, for the MFU in the log; 0 is the data sheet's

  c.mesh = ConfigDict()  # devices along each axis; -1 is the rest
  c.mesh.data = -1
  c.mesh.fsdp = 1
  c.mesh.tensor = 1
  c.mesh.sequence = 1

  c.eval = ConfigDict()
  c.eval.batch_size = 64
  c.eval.num_samples = 4  # draws of rows of the hyperschedule per sequence
  c.eval.train_sequences = 256  # of the valid set, looked at during training

  c.sampling = ConfigDict()
  c.sampling.sampler = 'ancestral'  # or another of the README's table
  c.sampling.steps = 256  # T; S follows from the hyperschedule
  c.sampling.eta = 0.015  # how much acs corrects, and remdm masks again
  c.sampling.temperature = 1.0

  c.revision = ConfigDict()  # of sampler revision; see sampling/revision.py for the values
  c.revision.steps = 8  # looks at each position
  c.revision.doubt = 'gate'  # or 'prior', 'uniform', 'random', 'confidence'
  c.revision.select = 'threshold'  # or 'bernoulli', 'budget'
  c.revision.accept = 'both'  # or 'either', 'any'
  c.revision.write = 'best'  # or 'drawn', 'mask'
  c.revision.phase = 'all'  # or 'early', 'late'
  c.revision.no_repeats = False  # refuse tokens equal to a neighbour; not for characters
  c.revision.span = 0  # neighbours selected along
  c.revision.early_stop = True
  c.revision.alpha = 1.0  # sharpness of the prior, in which the left matures first
  c.revision.delta = 0.5  # its shift, in positions
  c.revision.prior_scale = 0.15  # its greatest value; 0 for none
  c.revision.rate = 0.15  # of doubt uniform
  c.revision.threshold = (0.1, 0.3)  # at the first and last look
  c.revision.budget = (0.3, 0.05)  # likewise, share of the positions
  c.revision.hysteresis = 0.05  # less threshold for what was selected before
  c.revision.ratio = 1.2  # by which a new token must be likelier
  c.revision.lead = 0.1  # by which its probability must be higher
  c.revision.least_doubt = 1e-3  # below which a revision ends
  c.revision.cooldown = 1  # looks for which an edit stands
  c.revision.level = 0.15  # noise that a network which is told of it is told
  return c


def shrink(c: ConfigDict) -> ConfigDict:
  """Makes a config `:tiny`: minutes on two CPU cores, with a vocabulary trained on the corpus."""
  c.data.length = 128
  c.tokenizer.kind = 'sentencepiece'
  c.model.update(presets.TINY)
  c.model.dropout = 0.0
  c.model.dtype = 'float32'
  c.train.steps = 1200
  c.train.batch_size = 16
  c.train.learning_rate = 3e-3
  c.train.warmup_steps = 100
  c.train.adam_b2 = 0.99
  c.train.ema_decay = 0.99
  c.train.log_every = 10
  c.train.eval_every = 300
  c.train.checkpoint_every = 300
  c.sampling.steps = 64
  return c


# learning rates of GPT-3 (arXiv 2005.14165, table 2.1)
_LARGER = {
  'medium': (presets.MEDIUM, 3e-4),
  '1b': (presets.ONE_B, 2e-4),
  '7b': (presets.SEVEN_B, 1.2e-4),
}


def enlarge(c: ConfigDict, preset: dict, learning_rate: float) -> ConfigDict:
  """Makes a config larger than the papers': its parameters are split over all devices."""
  c.model.update(preset)
  c.model.dropout = 0.0  # little text is seen twice
  c.train.learning_rate = learning_rate
  c.mesh.data, c.mesh.fsdp = 1, -1
  return c


def finish(c: ConfigDict, size: str) -> ConfigDict:
  """Applies the part of `--config=configs/NAME.py:SIZE` after the colon.

  Raises:
    ValueError: a size that does not exist.
  """
  if size == 'tiny':
    return shrink(c)
  if size in _LARGER:
    return enlarge(c, *_LARGER[size])
  if size not in ('', 'small'):
    known = ', '.join(('tiny', 'small', *_LARGER))
    raise ValueError(f"unknown size {size!r} after the config file's colon; known: {known}")
  return c
