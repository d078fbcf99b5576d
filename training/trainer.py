"""The settings of a training as TRL takes them."""

from pathlib import Path
from typing import Any

from stillhouse.models import torch_device
from training.preparing import Prepared
from training.settings import Training

STATE = ".training"  # folder of an unfinished training, in that of the student
TENTH = 0.1  # of all steps, between checkpoints and between evaluations


def trainer_arguments(settings: Training) -> Any:
    """Return the settings as TRL takes them."""
    import torch
    from trl import SFTConfig

    on_gpu = torch_device(settings.device) == "cuda"
    is_mixed = settings.precision == "mixed" or (
        settings.precision == "auto" and on_gpu and torch.cuda.is_bf16_supported()
    )
    return SFTConfig(
        output_dir=str(Path(settings.out) / STATE),
        num_train_epochs=settings.epochs,
        max_steps=settings.max_steps or -1,
        per_device_train_batch_size=settings.batch_size,
        per_device_eval_batch_size=1,  # every row counts the same, however long it is
        gradient_accumulation_steps=settings.accumulation,
        learning_rate=settings.learning_rate,
        lr_scheduler_type=settings.schedule,
        warmup_steps=settings.warmup_steps,
        weight_decay=settings.weight_decay,
        adam_beta1=settings.betas[0],
        adam_beta2=settings.betas[1],
        max_grad_norm=settings.max_grad_norm,
        seed=settings.seed,
        max_length=settings.max_length if settings.packing else None,  # rows that are too long are left out before
        packing=settings.packing,
        eval_packing=False,
        shuffle_dataset=settings.packing,  # which rows share a pack is by chance, not by their order
        bf16=is_mixed,
        use_cpu=not on_gpu,
        ddp_find_unused_parameters=False,
        activation_checkpointing=settings.gradient_checkpointing,
        logging_steps=1,
        logging_nan_inf_filter=False,  # else a broken step is logged as the average of the others
        eval_strategy="no",  # until it is known whether there are rows for it
        eval_steps=settings.evaluate_every or TENTH,
        save_strategy="steps",
        save_steps=settings.checkpoint_every or TENTH,
        save_total_limit=2,  # the last one may be cut off
        disable_tqdm=True,
        report_to=[],
    )


def make_trainer(prepared: Prepared, settings: Training, arguments: Any, watch: Any) -> Any:
    """Return TRL's trainer, silent but for `watch`, a callback."""
    from peft import LoraConfig
    from transformers import IntervalStrategy, PrinterCallback
    from trl import SFTTrainer

    lora = settings.lora_rank and LoraConfig(
        r=settings.lora_rank,
        lora_alpha=settings.lora_alpha or 2 * settings.lora_rank,
        lora_dropout=settings.lora_dropout,
        target_modules="all-linear",  # but for the output layer
        task_type="CAUSAL_LM",
    )
    if prepared.test:
        arguments.eval_strategy, arguments.eval_on_start, arguments.do_eval = IntervalStrategy.STEPS, True, True
    trainer = SFTTrainer(
        model=prepared.model,
        args=arguments,
        train_dataset=prepared.train.rows,
        eval_dataset=prepared.test.rows if prepared.test else None,
        processing_class=prepared.tokenizer,
        peft_config=lora or None,
        callbacks=[watch],
    )
    trainer.remove_callback(PrinterCallback)
    return trainer
