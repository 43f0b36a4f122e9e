from http import HTTPStatus
from typing import Any
from urllib.parse import quote

import httpx

from ... import errors
from ...client import AuthenticatedClient, Client
from ...models.customer import Customer
from ...models.update_customer import UpdateCustomer
from ...types import Response


def _get_kwargs(
    customer: str,
    *,
    body: UpdateCustomer,
) -> dict[str, Any]:
    headers: dict[str, Any] = {}

    _kwargs: dict[str, Any] = {
        "method": "patch",
        "url": "/admin/customers/{customer}".format(
            customer=quote(str(customer), safe=""),
        ),
    }

    _kwargs["json"] = body.to_dict()

    headers["Content-Type"] = "application/json"

    _kwargs["headers"] = headers
    return _kwargs


def _parse_response(*, client: AuthenticatedClient | Client, response: httpx.Response) -> Customer | None:
    if response.status_code == 200:
        response_200 = Customer.from_dict(response.json())

        return response_200

    if client.raise_on_unexpected_status:
        raise errors.UnexpectedStatus(response.status_code, response.content)
    else:
        return None


def _build_response(*, client: AuthenticatedClient | Client, response: httpx.Response) -> Response[Customer]:
    return Response(
        status_code=HTTPStatus(response.status_code),
        content=response.content,
        headers=response.headers,
        parsed=_parse_response(client=client, response=response),
    )


def sync_detailed(
    customer: str,
    *,
    client: AuthenticatedClient,
    body: UpdateCustomer,
) -> Response[Customer]:
    """Changes the name, e-mail address or plan of a customer, pins it to a version of a plan, links it to
    a Stripe
    customer, suspends it, or enables it again.

    Args:
        customer (str): Id of a customer: chosen at creation, or drawn as `cus_` and 20 letters
            and digits. It must not
            identify a person: it stays in usage and ledger when the customer is erased.
        body (UpdateCustomer): Changes of a customer: a merge patch (RFC 7396). An absent member
            stays, `null` removes one.

    Raises:
        errors.UnexpectedStatus: If the server returns an undocumented status code and Client.raise_on_unexpected_status is True.
        httpx.TimeoutException: If the request takes longer than Client.timeout.

    Returns:
        Response[Customer]
    """

    kwargs = _get_kwargs(
        customer=customer,
        body=body,
    )

    response = client.get_httpx_client().request(
        **kwargs,
    )

    return _build_response(client=client, response=response)
