"""Every analysis in words: what it asks, what to look for, what random weights would show, and which figure it follows.

V is arXiv 2010.11929 ("An image is worth 16x16 words"), R is arXiv 2108.08810 ("Do vision transformers see like
convolutional neural networks?").
"""

from dataclasses import dataclass, replace


@dataclass(frozen=True)
class Analysis:
    """An analysis in words.

    Attributes:
        title: A heading.
        question: What it asks of the model.
        method: How the numbers come about.
        look_for: What a trained model shows, and what to look for.
        random_weights: What the same picture shows for random weights.
        source: Figure or section of the papers.
        needs_images: Whether it shows images to the model, or reads its weights only.
        needs_attention: Whether it needs one grid of tokens with attention between them in every block.
    """

    title: str
    question: str
    method: str
    look_for: str
    random_weights: str
    source: str
    needs_images: bool = True
    needs_attention: bool = False

    @property
    def last_line(self) -> str:
        """What the command says last."""
        return f"{self.look_for} {self.random_weights}"

    def of_diagonal(self) -> "Analysis":
        """Return the words for ``cka --diagonal``."""
        return replace(
            self,
            question="Which layers did training change?",
            look_for="Look for layers well below 1, which training changed; fine-tuning mostly changes the last ones.",
            random_weights="Random weights would be near 0 beside trained ones, except where the input shows through.",
            source="R, figure 12 and appendix G",
        )


ANALYSES: dict[str, Analysis] = {
    "filters": Analysis(
        title="Patch embedding filters",
        question="Which patterns does the first layer pick out of a patch?",
        method="Principal components of the first layer's filters, their mean subtracted, not scaled; each tile is "
        "stretched to its own range.",
        look_for="Look for smooth, low-frequency patterns and opposed colours, and for few components that explain "
        "most.",
        random_weights="Random weights would show noise, and every component explaining about as much as the next.",
        source="V, figure 7 left",
        needs_images=False,
    ),
    "pos-embed": Analysis(
        title="Position embedding similarity",
        question="Has the model learnt where its patches are?",
        method="Cosine between the position embeddings of every two patches; the tile at (row, column) shows that of "
        "this patch with all others. Prefix tokens are left out.",
        look_for="Look for tiles that are brightest at their own place and fade with distance, and for bright rows and "
        "columns.",
        random_weights="Random weights would show one bright dot per tile, and noise around it.",
        source="V, figures 7 centre and 10; section 3.2 for resampling",
        needs_images=False,
    ),
    "attention": Analysis(
        title="Attention maps",
        question="Where does a token look, and do the heads of a block look at different things?",
        method="Softmax of query and key as the model computes it, taken from the fused kernel's inputs. Entropy is "
        "over keys in nats; similarity of two heads is the cosine between their maps.",
        look_for="Look for heads that differ from each other, and for late blocks that find the object.",
        random_weights="Random weights would show even maps: entropy near its maximum, all heads alike.",
        source="V, appendix A and D.8",
        needs_attention=True,
    ),
    "rollout": Analysis(
        title="Attention rollout",
        question="From which patches does the answer come, through all blocks?",
        method="Each block's heads fused into one map, the skip connection added, rows normalised, blocks multiplied.",
        look_for="Look for the object standing out from the background in the last block.",
        random_weights="Random weights would show an almost even map that has nothing to do with the object.",
        source="V, figures 6 and 14, D.8 (after arXiv 2005.00928)",
        needs_attention=True,
    ),
    "distance": Analysis(
        title="Mean attention distance",
        question="Do heads look near or far?",
        method="Distance in pixels between a patch and those it attends to, weighted by attention, averaged over "
        "patches and images. Prefix tokens are left out without renormalising, as the authors do, unless told "
        "otherwise.",
        look_for="Look for low blocks that mix local and global heads, and for high blocks whose heads are all global.",
        random_weights="Random weights would put every head of every block on the dashed line of even attention.",
        source="V, figures 7 right and 11, D.7; R, figures 3 and 4",
        needs_attention=True,
    ),
    "cka": Analysis(
        title="Similarity of layers (CKA)",
        question="Which layers compute similar things, within a model or across two?",
        method="Linear centred kernel alignment with the unbiased HSIC estimator, numerators and denominators summed "
        "over minibatches in float64.",
        look_for="Look at the whole map: a trained ViT is one even region, a ResNet has blocks of its stages; across "
        "models, low ViT layers resemble the lower half of a ResNet.",
        random_weights="Random weights would show a map that is bright everywhere: little is added to the skip "
        "connection.",
        source="R, figures 1, 2 and 12, appendix G",
    ),
    "heads-vs-cnn": Analysis(
        title="Heads against a CNN",
        question="Are local heads the ones that compute what a CNN's low layers do?",
        method="Heads of a block sorted by mean attention distance; CKA between what a sliding subset of them gives "
        "and the CNN's lower layers.",
        look_for="Look for similarity that falls as the subsets get more global.",
        random_weights="Random weights would show a trend by chance only: their heads differ by a fraction of a pixel.",
        source="R, figure 5",
        needs_attention=True,
    ),
    "norm-ratio": Analysis(
        title="Skip connections against branches",
        question="How much of a token passes a block unchanged?",
        method="Norm of what the skip connection carries over norm of what the branch adds, per token, then the mean; "
        "and the cosine between them.",
        look_for="Look for a class token that is carried along in the first half and rewritten in the second, and for "
        "patches that do the reverse.",
        random_weights="Random weights would carry patches along nearly unchanged through every block, and let a class "
        "token that starts near zero grow.",
        source="R, figures 7, E.1 and E.2",
    ),
    "localisation": Analysis(
        title="Token localisation",
        question="Does a token of the last layer still stand for its own place?",
        method="Unbiased CKA between one token and every patch of the input pixels, over images.",
        look_for="Look for maps that are brightest at the token's own place; a model trained with a class token keeps "
        "places, one trained with average pooling less, a CNN hardly.",
        random_weights="Random weights would keep places almost perfectly, since skip connections carry every patch "
        "along: compare with other models, not with noise.",
        source="R, figures 9, 10 and D.1 to D.3",
    ),
    "features": Analysis(
        title="Patch features",
        question="Which patches does the model hold to be alike, and do some tokens stand out?",
        method="First three principal components of the patch tokens of all pictures as red, green and blue; cosine to "
        "one patch; Euclidean norms.",
        look_for="Look for parts of the object in one colour, and for lone tokens of huge norm in the background.",
        random_weights="Random weights would colour the patches by their brightness and place.",
        source="arXiv 2309.16588, figures 3 and 4, for the norms",
    ),
    "receptive-field": Analysis(
        title="Effective receptive field",
        question="Which pixels does the token in the middle depend on?",
        method="Absolute gradient of the sum over channels at the middle place by every pixel, averaged over images.",
        look_for="Look for a ViT that sees the whole image early with a strong own patch, and a CNN that widens "
        "slowly.",
        random_weights="Random weights would show the own patch and an even, faint rest.",
        source="R, figures 6 and C.1 to C.4",
    ),
    "probe": Analysis(
        title="Linear probes",
        question="In which layers, and in which tokens, can a linear classifier find the class?",
        method="Closed-form few-shot classifiers on frozen features, the code of vitctl fewshot-eval, per layer, per "
        "patch token and per pooling: native is the model's own, cls the class token, mean that of the patches, "
        "mean-all that of all tokens, first the first patch, tokens each patch alone, their accuracies averaged.",
        look_for="Look for accuracy that rises with depth, and for single patch tokens that stay weak where the model "
        "was trained with a class token.",
        random_weights="Random weights would stay well below, and gain little from block to block.",
        source="R, figures 11 and 13, D.4; V, section 4.1",
    ),
    "equivariance": Analysis(
        title="Equivariance and invariance",
        question="What happens to the features when the image moves, when patches change places, when the batch "
        "changes?",
        method="Relative difference between features of a shifted image and shifted features, away from the borders; "
        "the same for permuted patches; outputs alone against outputs in a batch; cosine between neighbouring patches.",
        look_for="Look for a shift error that position embeddings and attention bring in, for neighbours more alike "
        "than random pairs, and for outputs that do not depend on the batch.",
        random_weights="Random weights would show the same exact symmetries, with smaller errors where they are "
        "broken.",
        source="V, section 3.1",
    ),
}
