"""Networks: one description of sizes, a flax.nnx module on JAX and a torch.nn module on PyTorch, with equal weights."""

from ppl_gen.nets.convolutional import ConvDecoder, ConvEncoder
from ppl_gen.nets.masked_mlp import MaskedMLP
from ppl_gen.nets.mlp import MLP, ResidualMLP
from ppl_gen.nets.net import Net, load, weights
from ppl_gen.nets.pixel_cnn import PixelCNN
from ppl_gen.nets.transformer import CausalTransformer
from ppl_gen.nets.unet import UNet

__all__ = [
    "MLP",
    "CausalTransformer",
    "ConvDecoder",
    "ConvEncoder",
    "MaskedMLP",
    "Net",
    "PixelCNN",
    "ResidualMLP",
    "UNet",
    "load",
    "weights",
]
