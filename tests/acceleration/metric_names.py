"""Names of metrics as trackers, trainers and libraries write them, with whether larger is better, as their authors mean it.

They were taken from manuals and logs, by family and not by word. A name stands under what is true of the quantity, whatever
`direction.py` says of it. `UNKNOWN` are quantities that nobody chooses models by, and names that leave the direction open.
"""

MAXIMIZED = {
    "Lightning, torchmetrics": """
        val_acc  val/accuracy  val_accuracy_epoch  valid_acc_step  test/MulticlassAccuracy  val_BinaryAUROC  val_f1
        val_MultilabelF1Score  val_MulticlassJaccardIndex  val_BinaryMatthewsCorrCoef  val/R2Score  train_CohenKappa
        val_acc/dataloader_idx_0  val_StructuralSimilarityIndexMeasure  val/PeakSignalNoiseRatio
        ScaleInvariantSignalDistortionRatio  val_ExplainedVariance  PearsonCorrCoef  val_SpearmanCorrCoef
        RetrievalMRR  RetrievalNormalizedDCG  val_BLEUScore  ROUGE1_fmeasure  val_ConcordanceCorrCoef  val_auroc_macro""",
    "Hugging Face Trainer, evaluate, TRL": """
        eval_accuracy  eval_f1  eval_matthews_correlation  eval_pearson  eval_spearmanr  eval_exact_match  eval_rougeL
        eval_rougeLsum  eval_bleu  eval_sacrebleu  eval_meteor  eval_chrf  eval_bertscore_f1  eval_combined_score  chrf  meteor
        eval_HasAns_exact  eval_NoAns_f1  eval_overall_f1  eval_mean_iou  eval_samples_per_second  eval_steps_per_second
        rewards/accuracies  rewards/margins  eval_rewards/accuracies  objective/rlhf_reward""",
    "timm, torchvision, MMPretrain": """
        top1  top5  eval_top1  eval_top5  accuracy/top1  acc1  acc@5  Acc@1  prec@1  Prec@5  top-5 accuracy
        single-label/f1-score  multi-label/mAP  top_k_accuracy""",
    "Ultralytics, COCO, detectron2, MMDetection": """
        metrics/precision(B)  metrics/recall(B)  metrics/mAP50(B)  metrics/mAP50-95(B)  metrics/mAP50-95(M)  fitness
        metrics/mAP_0.5:0.95  coco/bbox_mAP_50  bbox_mAP_s  bbox/AP50  segm/APl  AR@1000  pascal_voc/mAP  PQ  SQ_th
        mIoU  aAcc  mDice  fwIoU  IoU.background  mFscore  NDS  HOTA  MOTA  IDF1  track_AMOTA""",
    "fairseq, ESPnet, NeMo, speech": """
        valid_bleu  valid/main/acc  val_acc_micro_top_1  PESQ  stoi  si_sdr  SI-SNR  val_sdr  UTMOS  dnsmos  mos""",
    "lm-eval-harness, Composer, Megatron": """
        acc  acc_norm  acc,none  acc_norm,none  exact_match,strict-match  exact_match,flexible-extract  mc1  mc2  em
        pass@1  pass_at_10  maj@8  prompt_level_strict_acc,none  inst_level_loose_acc  bleu_acc
        metrics/eval/LanguageAccuracy  metrics/lambada/0-shot/InContextLearningLMAccuracy  MaskedAccuracy
        throughput/batches_per_sec  throughput/device/mfu  tokens/s""",
    "scikit-learn, Keras, tabular": """
        balanced_accuracy  average_precision  f1_macro  jaccard_weighted  roc_auc_ovr_weighted  r2  explained_variance
        neg_mean_squared_error  neg_root_mean_squared_error  neg_log_loss  neg_brier_score  neg_mean_absolute_error
        neg_mean_poisson_deviance  adjusted_rand_score  normalized_mutual_info_score  v_measure_score  fowlkes_mallows_score
        completeness_score  d2_absolute_error_score  matthews_corrcoef  sparse_categorical_accuracy  val_binary_accuracy
        val_sparse_top_k_categorical_accuracy  validation_0-auc  valid-ndcg@5  aucpr  quadratic_weighted_kappa  c_index
        silhouette  calinski_harabasz  true_positive_rate  specificity_at_sensitivity  tpr  negative_predictive_value""",
    "reinforcement learning": """
        rollout/ep_rew_mean  eval/mean_reward  charts/episodic_return  episode_reward_mean  env_runners/episode_return_mean
        rollout/success_rate  eval/win_rate  evaluation/normalized_score  Reward/Total_reward  is_success  eval/return
        reward  episode_reward  return  test_return_mean  hit_rate  win  success  average_reward""",
    "generation": """
        psnr  ssim  ms_ssim  PSNR_Y  inception_score  clip_score  val/psnr  MS-SSIM  vmaf  aesthetic_score
        image_reward  CIDEr  SPICE  cider  val_elbo  log_likelihood  val/log_likelihood  mauve""",
    "retrieval, recommenders, knowledge graphs": """
        recall@10  ndcg@10  NDCG@100  map@5  mrr@10  hits@1  Hits@10  HR@10  R@1  P@5  MRR  hit@20  precision_at_k
        cosine_accuracy@1  dot_ndcg@10  cos_sim_pearson  txt_r1  img_r10  rank-1  Rank1  t2i_R@5  ndcg_cut_10  gauc
        cosine_similarity""",
    "medicine, biology, finance": """
        dice  val_dice_et  mean_dice  sensitivity  specificity  dsc  nsd  lddt  tm_score  auprc  AUC-ROC  youden  sharpe
        surface_dice  ppv  npv  concordance_index""",
    "parsing, language understanding": """
        LAS  UAS  slot_f1  joint_goal_accuracy  nmi  ari  ami  purity  bleurt  comet  gleu  kappa  mcc  correct
        num_correct  fidelity  explained_var""",
    "shared spelling": """
        valAcc  testacc  val.accuracy  accuracy:val  best_acc  acc_ema  ema/val_acc  model accuracy on errors
        throughput  fps  images/sec  tokens_per_second  error_reduction  error_detection_f1  hallucination_auroc
        accuracy_per_class  per_class_accuracy  f1_toxicity  PSNR ↑  anomaly detection AUROC  macro-F1  weighted F1""",
}

MINIMIZED = {
    "Lightning, torchmetrics": """
        val_loss  val/loss  loss_epoch  val_loss/dataloader_idx_1  train_loss_step  val_MeanSquaredError  MeanAbsoluteError
        val_MulticlassCalibrationError  test/BinaryHingeLoss  val_WordErrorRate  KLDivergence  val/Perplexity
        MeanAbsolutePercentageError  val_HammingDistance  avg_val_loss  valLoss  checkpoint_on_val_loss""",
    "Hugging Face Trainer, evaluate, TRL": """
        eval_loss  eval_wer  eval_cer  eval_perplexity  eval_mse  eval_rmse  eval_ter  eval_mae  loss/policy_avg
        eval_squad_loss""",
    "timm, torchvision, detection": """
        eval_loss  top1_err  err@5  err1  Error  val/box_loss  val/cls_loss  val/dfl_loss  train/box_loss  loss_rpn_cls
        loss_giou  loss_dice  loss_iou  loss_mask  d0.dn_loss_bbox  class_error  cardinality_error_unscaled  mATE  mAOE
        total_loss  iou_loss  dice_loss  losses""",
    "fairseq, ESPnet, NeMo, speech": """
        nll_loss  valid_nll_loss  ppl  valid_ppl  val_wer  wer_ctc  cer_ctc  valid/main/loss  EER  min_dcf  DER  mcd
        validation_loss  val_wer_greedy  phoneme_error_rate  TER  real_time_factor""",
    "lm-eval-harness, Composer, Megatron": """
        word_perplexity  byte_perplexity,none  bits_per_byte,none  metrics/eval/LanguageCrossEntropy  LanguagePerplexity
        lm loss validation  lm_loss_PPL  bpb  bpc  bits_per_dim  lm-loss  loss/train/total""",
    "scikit-learn, Keras, tabular": """
        log_loss  logloss  mean_squared_error  max_error  hamming_loss  brier_score_loss  mean_absolute_percentage_error
        val_sparse_categorical_crossentropy  binary_crossentropy  validation_0-logloss  valid_0's rmse  mlogloss  merror
        rmsle  smape  MASE  wape  quantile_loss  pinball  false_positive_rate  fnr  FPR95  fpr@95  fall_out  error_rate
        davies_bouldin_score  zero_one_loss  median_absolute_error  mean_pinball_loss  root_mean_squared_error""",
    "reinforcement learning": """
        losses/value_loss  train/value_loss  train/policy_gradient_loss  train/loss  regret  cumulative_regret
        collision_rate  episode_cost  failure_rate  optimality_gap  td_error""",
    "generation": """
        fid  FID50k  fid50k_full  kid  lpips  val/lpips  fvd  FAD  fid_score  neg_log_likelihood  negative_log_likelihood
        nll  negative_elbo  nelbo  dists  frechet_inception_distance  bits/dim  niqe  brisque  kid50k_full""",
    "geometry, depth, pose, matching": """
        abs_rel  sq_rel  rmse_log  silog  log10  epe  AEPE  mpjpe  PA-MPJPE  minADE  minFDE_6  chamfer  chamfer_distance
        nme  emd  heatmap_mse  rmsd  hd95  hausdorff  assd  mean_rank  miss_rate""",
    "uncertainty, calibration, time series": """
        ece  val_ece  adaptive_ECE  brier  brier_score  crps  NLL  energy_score_loss  aurc  mape  nrmse  mae_norm
        expected calibration error  deviance""",
    "shared spelling": """
        incorrect  inaccuracy  processing_time  mapping_time  previous_ppl  inference_latency_ms  accuracy_loss
        misclassification_rate  unsuccessful  num_errors  mistakes  1-accuracy  one_minus_ssim  accuracy_drop
        seconds_per_step  dissimilarity  toxicity  hallucination_rate  edit_distance  loss (lower is better)
        LPIPS↓  heldout_xent  error  penalty  violations  loss@100  l1  val_l2  mse_val  overfitting gap""",
}

UNKNOWN = {
    "schedules and counters": """
        learning_rate  lr  lr-AdamW  lr-AdamW/pg1  train/learning_rate  lr/pg0  epoch  global_step  step  iteration
        trainer/global_step  time/total_timesteps  num_input_tokens_seen  train/epoch  n_updates  momentum  weight_decay""",
    "machinery": """
        train/grad_norm  grad_norm  l2_norm  loss_scale  gpu_mem  memory_gb  system/gpu.0.memory  time  wall_time
        time/time_elapsed  total_time  timestamp  param_norm  model_size  num_params  total_flos  max_memory_allocated""",
    "quantities without a side": """
        rollout/ep_len_mean  entropy  policy_entropy  temperature  output_length  mean_length  response_length  value
        metric  result  val  test  objective  x  foo  q_value  logits/chosen  logps/rejected  kl_coef  clip_range
        prediction_mean  support  threshold  best_threshold  iou_threshold  val_metric  alpha  beta  ratio  count""",
    "spreads and differences of a metric": """
        acc_stderr  acc_stderr,none  acc_norm_stderr  reward_std  loss_std  f1_std  accuracy_diff  score_variance""",
    "names that leave it open": """
        val_no_improvement  neg_loss  win_loss_ratio  self_bleu  neg_recall  best_epoch  early_stopping_patience
        loss_weight  anything else""",
}
