"""Files as people find them, for the page on troubleshooting: part of a network, two networks, none, a flat one."""

import torch
from torchvision.models import resnet18

torch.manual_seed(0)
network = resnet18()
network(torch.rand(16, 3, 64, 64))  # so that the batch norms have seen images
trunk = {name: value for name, value in network.state_dict().items() if not name.startswith("fc.")}
twice = {f"{side}.{name}": value + (side == "ema") for name, value in trunk.items() for side in ("net", "ema")}
part = {name: value for name, value in trunk.items() if not name.startswith("layer4.1.")}
torch.save({"state_dict": part}, "part.pth")
torch.save({"net": twice}, "two.pth")
torch.save({"state_dict": {"embed.weight": torch.zeros(3, 3)}}, "none.pth")
torch.save(trunk, "flat.pth")
