/** Client of the Tollgate API: API keys, quotas, usage metering and overage billing. */

export type {CreateOptions, RequestOptions} from './call.js';
export {Client, type ClientOptions} from './client.js';
export {
  BadRequestError,
  BodyTooLargeError,
  ConflictError,
  CustomerSuspendedError,
  type Defect,
  ForbiddenError,
  InsufficientRoleError,
  InvalidResponseError,
  LimitError,
  NoResponseError,
  NotFoundError,
  PaymentsNotConfiguredError,
  ProblemError,
  QuotaExceededError,
  RateLimitedError,
  ThrottledError,
  TollgateError,
  UnauthorizedError,
  UnavailableError,
  UnprocessableError,
} from './errors.js';
export type * from './generated/schema.js';
export type {Pages} from './pages.js';
export {type ChargeCheck, verifyCharge} from './proof.js';
export type {Retries} from './retry.js';
export {
  BufferFullError,
  type Cost,
  InvalidRecordError,
  type UndeliveredEvent,
  UndeliveredUsageError,
  type UsageEvent,
  type UsageRecord,
  type UsageReporter,
  type UsageReporterOptions,
} from './usage.js';
export {
  type BillingRunCompletedEvent,
  type ChargeFailedEvent,
  type ChargeSettledEvent,
  type PaymentFailedEvent,
  type QuotaThresholdEvent,
  type SubscriptionChangedEvent,
  type VerifyWebhookOptions,
  type WebhookEvent,
  type WebhookHeaders,
  WebhookVerificationError,
  verifyWebhook,
} from './webhooks.js';
